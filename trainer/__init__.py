"""What a video is: records, models, losses, metrics, training, evaluation and export."""
