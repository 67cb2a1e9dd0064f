"""Metrics, the evaluation loop, and the analysis of mixtures of experts."""
