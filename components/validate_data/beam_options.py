"""Beam's own options: which runner does the work, and how."""

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence

from trainer.common.errors import UserError

# Beam's runner on this machine. What Beam calls DirectRunner first tries to download another one.
LOCAL_RUNNER = "FnApiRunner"

# From so much data on, one worker process a core is worth the seconds that it takes to start them.
MANY_BYTES = 1 << 30
ALL_CORES = ("--direct_running_mode=multi_processing", "--direct_num_workers=0")


def split(text: str) -> list[str]:
    """Options from one text, quoted as in a shell; UserError if a quote is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"beam_options: {error} in {text!r}.") from None


def complete(beam_args: Sequence[str], total_bytes: int) -> list[str]:
    """Beam's options from a command line, and what fits the data where they say nothing.

    Raises:
        UserError: one of them is not written --name or --name=value, or not known to Beam.
    """
    for argument in beam_args:
        if not argument.startswith("--"):
            raise UserError(f"Beam's options are --name or --name=value; got {argument!r}.")
    unknown = _unknown(beam_args)
    if unknown:
        raise UserError(f"Unknown flags, neither ours nor Beam's: {', '.join(unknown)}.")
    defaults = [f"--runner={LOCAL_RUNNER}"]
    if total_bytes >= MANY_BYTES and (os.cpu_count() or 1) > 1:
        defaults += ALL_CORES
    return [*defaults, *beam_args]  # of two with the same name the later one counts


@contextlib.contextmanager
def workers_find_our_packages():
    """Lets worker processes of this machine import what this one can."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _unknown(beam_args: Sequence[str]) -> list[str]:
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(beam_args))
    everything = options.get_all_options(retain_unknown_options=True)
    return [f"--{name}" for name in sorted(everything.keys() - options.get_all_options().keys())]
