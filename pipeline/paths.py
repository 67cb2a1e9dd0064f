"""Paths in this repository, and its version."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"

# Pipeline -> name of its compiled files, without the ending.
COMPILED = {"train": "pipeline", "predict": "predict"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def compiled_files(folder: Path, pipeline: str = "train") -> dict[str, Path]:
    """Return target ("kubeflow", "vertex") -> file of a compiled pipeline in a folder."""
    name = COMPILED[pipeline]
    return {"kubeflow": folder / f"{name}.yaml", "vertex": folder / f"{name}.vertex.yaml"}
