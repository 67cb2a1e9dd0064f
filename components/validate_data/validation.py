"""The step: checks all records, writes statistics and reports, and says whether to go on."""

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from components.validate_data.beam_options import (
    LOCAL_RUNNER,
    complete,
    workers_find_our_packages,
)
from components.validate_data.findings import Example
from components.validate_data.output import ANOMALIES, REPORT, STATISTICS, write
from components.validate_data.references import Settings, read
from components.validate_data.shard import Shard
from components.validate_data.statistics import Result
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.records import RecordFormat

# Ids are compared within buckets, each of which a worker holds in memory at once.
BYTES_PER_BUCKET = 16 << 30
MAX_BUCKETS = 256

DEFAULT = Settings()


def validate(
    inputs: Mapping[str, str],
    output_dir: str,
    record_format: RecordFormat,
    beam_args: Sequence[str] = (),
    settings: Settings = DEFAULT,
) -> str:
    """Reads every record of every split; writes statistics, findings, a schema and a report.

    Args:
        inputs: Split -> its files, as patterns separated by commas.
        output_dir: Where to write; local or gs://.
        record_format: What to expect of every record.
        beam_args: Any options of Beam, as on a command line, e.g. "--runner=FlinkRunner". Without
            a runner this machine does the work, on all cores if there is much of it.
        settings: How strict to be, and what to compare the data with.

    Returns:
        A fingerprint of the data, in hex: the same for the same records, wherever their files lie
        and however they are named.

    Raises:
        UserError: a pattern matches no file, a file of the settings cannot be read, output_dir
            cannot be written, the runner of beam_args fails, or the data has findings that
            settings.fail_on does not let pass; the message names file and record of each kind's
            first.
    """
    shards = [
        Shard(split, path) for split, pattern in inputs.items() for path in storage.glob(pattern)
    ]
    total_bytes = _total_bytes(shards)
    pipeline = _pipeline(beam_args, total_bytes)
    references = read(settings, record_format.num_classes)
    _clear(output_dir)
    write_result = partial(
        write,
        output_dir=output_dir,
        patterns=dict(inputs),
        record_format=record_format,
        settings=settings,
        references=references,
    )
    num_buckets = min(MAX_BUCKETS, 1 + total_bytes // BYTES_PER_BUCKET)
    _run(pipeline, shards, record_format, num_buckets, write_result)
    anomalies = json.loads(storage.read_text(storage.join(output_dir, ANOMALIES)))
    if not anomalies["passed"]:
        report = storage.join(output_dir, REPORT)
        raise UserError(_message(anomalies["anomalies"], settings.fail_on, report))
    return json.loads(storage.read_text(storage.join(output_dir, STATISTICS)))["fingerprint"]


def _total_bytes(shards: list[Shard]) -> int:
    # On gs:// each size is a request: the time is spent waiting.
    with ThreadPoolExecutor(32) as threads:
        return sum(threads.map(_size, [shard.path for shard in shards]))


def _size(path: str) -> int:
    with contextlib.suppress(UserError):  # which will be a finding
        return storage.size(path)
    return 0


def _clear(output_dir: str) -> None:
    """Makes sure that what is read in the end is of this run, and that it can be written."""
    unfinished = json.dumps({"passed": False, "anomalies": []})
    storage.write_text(storage.join(output_dir, ANOMALIES), unfinished)


def _pipeline(beam_args: Sequence[str], total_bytes: int):
    """An empty pipeline of Beam's."""
    with _quiet():
        import apache_beam as beam

        options = complete(beam_args, total_bytes)
    try:
        return beam.Pipeline(argv=options)
    except ValueError as error:
        raise UserError(f"Beam cannot work with its options: {error}") from None


def _run(
    pipeline,
    shards: list[Shard],
    record_format: RecordFormat,
    num_buckets: int,
    write_result: Callable[[Result], None],
) -> None:
    import apache_beam as beam

    from components.validate_data.pipeline import Validate

    with _in_the_runners_words(pipeline), workers_find_our_packages(), pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(shards, reshuffle=False)
            | "Validate" >> Validate(record_format, num_buckets)
            | "Write" >> beam.Map(write_result)
        )


@contextlib.contextmanager
def _in_the_runners_words(pipeline):
    """Tells what went wrong in a runner that was asked for: no Java, no cluster, a failed job."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each runner has kinds of its own
        runner = type(pipeline.runner).__name__
        if runner == LOCAL_RUNNER:
            raise
        raise UserError(f"Beam's {runner} failed: {error}") from error


@contextlib.contextmanager
def _quiet():
    """Beam warns of Google services that are not installed, and of options that we check."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _message(anomalies: list[dict], fail_on: str, report: str) -> str:
    severities = ("error",) if fail_on == "error" else ("error", "warning")
    lines = [f"The data must not be trained on. All that was found is in {report}; in short:"]
    for row in anomalies:
        if row["severity"] not in severities:
            continue
        more = f" ({row['count']:,} such in {row['split']})" if row["count"] > 1 else ""
        lines.append(f"{row['title']}: {Example(**row['examples'][0])}{more}. {row['advice']}")
    return "\n  ".join(lines)
