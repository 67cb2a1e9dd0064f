"""Shared by every package: errors, storage, command-line flags, console output."""
