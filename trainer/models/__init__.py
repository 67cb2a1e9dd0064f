"""The models, their layers, and the registry of their names."""
