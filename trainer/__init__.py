"""Data, models, losses, metrics, training, evaluation and export."""
