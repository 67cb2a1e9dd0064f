"""Errors, storage, command-line flags and logging for all packages."""
