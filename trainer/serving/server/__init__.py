"""A KServe model server for published models."""
