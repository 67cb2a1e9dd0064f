"""The pipeline definitions, one module each with a function `build`."""

import importlib


def load(name: str):
    """Return the module of a pipeline definition. It loads kfp."""
    return importlib.import_module(f"pipeline.graphs.{name}")
