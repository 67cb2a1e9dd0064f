"""The registry of published models."""
