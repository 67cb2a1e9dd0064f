"""Running a compiled pipeline on this machine, in subprocesses or containers."""
