"""The training loop: the train step, losses, optimizers, distribution, progress."""
