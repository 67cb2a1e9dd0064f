"""Running a compiled pipeline on this machine, in subprocesses or in containers."""
