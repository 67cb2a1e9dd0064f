"""Exporting, loading and predicting with trained models."""
