"""Beam's own options: which runner does the work, and how."""

from collections.abc import Sequence

from trainer.errors import UserError

# Beam's runner in this process. What Beam calls DirectRunner tries to download another one first.
IN_PROCESS = "FnApiRunner"


def complete(beam_args: Sequence[str]) -> list[str]:
    """Beam's options from a command line, with the runner of this process where none is named.

    Raises:
        UserError: one of them is not written --name or --name=value, or not known to Beam.
    """
    for argument in beam_args:
        if not argument.startswith("--"):
            raise UserError(f"Beam's options are --name or --name=value; got {argument!r}.")
    unknown = _unknown(beam_args)
    if unknown:
        raise UserError(f"Unknown flags, neither ours nor Beam's: {', '.join(unknown)}.")
    return [f"--runner={IN_PROCESS}", *beam_args]  # a later --runner counts


def _unknown(beam_args: Sequence[str]) -> list[str]:
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(beam_args))
    everything = options.get_all_options(retain_unknown_options=True)
    return [f"--{name}" for name in sorted(everything.keys() - options.get_all_options().keys())]
