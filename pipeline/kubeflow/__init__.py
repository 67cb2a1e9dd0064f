"""Kubeflow Pipelines: connection, client, submitting, following and scheduling runs."""
