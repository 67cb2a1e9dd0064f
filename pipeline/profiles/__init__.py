"""What the steps ask of a cluster: one TOML file per kind of cluster."""
