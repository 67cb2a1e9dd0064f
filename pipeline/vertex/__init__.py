"""Vertex AI Pipelines: submitting, following and scheduling runs."""
