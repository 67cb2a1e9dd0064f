"""The pipeline definitions."""
