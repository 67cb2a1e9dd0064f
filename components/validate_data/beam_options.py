"""Apache Beam's pipeline options: which runner does the work, and how."""

import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence

from trainer.common.errors import UserError

# Beam's runner in this process. Beam's DirectRunner first tries to download another runner.
LOCAL_RUNNER = "FnApiRunner"

# Inputs of this size or more are worth the seconds it takes to start one worker process per core.
MIN_BYTES_FOR_ALL_CORES = 1 << 30
ALL_CORES = ("--direct_running_mode=multi_processing", "--direct_num_workers=0")

# What a Dataflow job needs -> an example value.
DATAFLOW_OPTIONS = {
    "project": "my-project",
    "region": "us-central1",
    "temp_location": "gs://my-bucket/tmp",
    "sdk_container_image": "REGISTRY/yt8m-dataflow:0.1.0",
}


def split(text: str) -> list[str]:
    """Split a string into options, with the shell's quoting rules.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"beam_options: {error} in {text!r}.") from None


def empty_pipeline(beam_args: Sequence[str], total_bytes: int):
    """Return an empty Beam pipeline.

    Args:
        beam_args: Options as on a command line, e.g. ["--runner=FlinkRunner"].
        total_bytes: Size of the data. 0 means one local process, whatever the size.

    Raises:
        UserError: An option is invalid or missing.
    """
    with _quiet():
        import apache_beam as beam

        options = complete(beam_args, total_bytes)
    try:
        return beam.Pipeline(argv=options)
    except ValueError as error:
        raise UserError(f"Invalid Beam options: {error}") from None


@contextlib.contextmanager
def runner_errors(pipeline):
    """Turn the errors of a distributed runner (no Java, no cluster, failed job) into UserErrors."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each runner raises its own types
        runner = type(pipeline.runner).__name__
        if runner == LOCAL_RUNNER:
            raise
        raise UserError(f"Beam's {runner} failed: {error}") from error


@contextlib.contextmanager
def _quiet():
    """Suppress Beam's warnings about missing Google services and unknown options."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def complete(beam_args: Sequence[str], total_bytes: int) -> list[str]:
    """Check Beam's options and add defaults that suit the size of the data.

    Args:
        beam_args: Options as on a command line, e.g. ["--runner=FlinkRunner"].
        total_bytes: Size of all input files.

    Returns:
        The defaults, followed by `beam_args`: the last of two options with the same name counts.

    Raises:
        UserError: an option is not written --name or --name=value, Beam does not know it, or
            DataflowRunner lacks an option that it needs.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    for argument in beam_args:
        if not argument.startswith("--"):
            raise UserError(f"Beam options must be --name or --name=value; got {argument!r}.")
    options = PipelineOptions(list(beam_args))
    known = options.get_all_options()
    unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    if unknown:
        names = ", ".join(f"--{name}" for name in sorted(unknown))
        raise UserError(f"Unknown flags, known neither to validate_data nor to Beam: {names}.")
    if (known["runner"] or "").lower() in ("dataflow", "dataflowrunner"):
        _check_dataflow(known)
    defaults = [f"--runner={LOCAL_RUNNER}"]
    if total_bytes >= MIN_BYTES_FOR_ALL_CORES and (os.cpu_count() or 1) > 1:
        defaults += ALL_CORES
    return [*defaults, *beam_args]


def _check_dataflow(options: dict):
    """Check the options of a Dataflow job before Beam contacts Google Cloud."""
    missing = [
        f"--{name}={example}" for name, example in DATAFLOW_OPTIONS.items() if not options[name]
    ]
    if missing:
        raise UserError(f"DataflowRunner also needs, for example: {' '.join(missing)}")
    for name in ("temp_location", "staging_location"):
        value = options[name]
        # Beam would replace a path that it cannot use by a bucket of its own making.
        if value and not re.fullmatch(r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/.*", value):
            raise UserError(f"DataflowRunner needs --{name}=gs://BUCKET/FOLDER; got {value!r}.")


@contextlib.contextmanager
def python_path_for_workers():
    """Let worker processes on this machine import what this process can import."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
