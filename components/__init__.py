"""The pipeline's steps: plain functions, each with a command line of its own."""
