"""Profiles: the steps' resources, one TOML file per kind of cluster."""
