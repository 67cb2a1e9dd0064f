"""Batch prediction: one file of predictions per input file, on Beam, and a report."""
