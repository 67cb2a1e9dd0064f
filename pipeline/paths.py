"""Paths in this repository, and its version."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
# Target -> name of the compiled pipeline.
COMPILED = {"kubeflow": "pipeline.yaml", "vertex": "pipeline.vertex.yaml"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
