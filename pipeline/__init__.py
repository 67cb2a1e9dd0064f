"""The pipeline's graphs, and the commands that compile, run, submit and schedule them."""
