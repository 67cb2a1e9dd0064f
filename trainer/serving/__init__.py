"""Loading, exporting and predicting with trained models."""
