"""The folder that a training run works in: checkpoints, the lock, the mirror on gs://."""
