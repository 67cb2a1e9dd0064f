"""Options of Apache Beam: defaults and checks."""

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence

from trainer.common.errors import UserError

# Beam's local runner. DirectRunner would first try to download Prism.
LOCAL_RUNNER = "FnApiRunner"

# From this size on, one worker process per core is worth its startup time of a few seconds.
MANY_BYTES = 1 << 30
ALL_CORES = ("--direct_running_mode=multi_processing", "--direct_num_workers=0")


def split(text: str) -> list[str]:
    """Split a string of options as a shell does.

    Raises:
        UserError: A quotation mark is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"beam_options: {error} in {text!r}.") from None


def complete(beam_args: Sequence[str], total_bytes: int) -> list[str]:
    """Return `beam_args` preceded by defaults that suit the amount of data.

    Raises:
        UserError: An option does not have the form --name or --name=value, or is unknown to Beam.
    """
    for argument in beam_args:
        if not argument.startswith("--"):
            raise UserError(
                f"Beam options must have the form --name or --name=value; got {argument!r}."
            )
    unknown = _unknown(beam_args)
    if unknown:
        raise UserError(
            f"Unknown flags, known neither to validate_data nor to Beam: {', '.join(unknown)}."
        )
    defaults = [f"--runner={LOCAL_RUNNER}"]
    if total_bytes >= MANY_BYTES and (os.cpu_count() or 1) > 1:
        defaults += ALL_CORES
    return [*defaults, *beam_args]  # the last option of a name wins


@contextlib.contextmanager
def python_path_for_workers():
    """Let local worker processes import from this process's sys.path."""
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
