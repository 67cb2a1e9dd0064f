"""The validate_data step: check all records, write statistics and a report, and fail on errors."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from components.validate_data.beam_options import (
    empty_pipeline,
    python_path_for_workers,
    runner_errors,
)
from components.validate_data.findings import DRIFT, Example
from components.validate_data.output import ANOMALIES, MANIFEST, REPORT, STATISTICS, write
from components.validate_data.references import Settings, read
from components.validate_data.shard import Shard
from components.validate_data.statistics import Result
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import manifest
from trainer.data.records import RecordFormat

# The ids of one bucket must fit in a worker's memory: about 15 bytes per video.
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
    """Read every record of every split; write statistics, findings, a schema and a report.

    Args:
        inputs: Split -> comma-separated file patterns.
        output_dir: Output folder, local or gs://.
        record_format: The expected format of the records.
        beam_args: Beam's command-line options, e.g. "--runner=FlinkRunner". The default runner is
            local, and uses all cores for large data.
        settings: Severity that fails the run, and the files to compare the data with.

    Returns:
        A SHA-256 digest of the records, in hex. It depends on the records only, not on the paths
        of the files.

    Raises:
        UserError: A pattern matches no file, a file named in the settings cannot be read,
            output_dir cannot be written, the Beam runner fails, or the data has findings of the
            severity `settings.fail_on`. The message lists the first example of each finding.
    """
    shards = [
        Shard(split, path) for split, pattern in inputs.items() for path in storage.glob(pattern)
    ]
    statuses = storage.statuses(shard.path for shard in shards)
    total_bytes = sum(status.size for status in statuses.values())
    pipeline = empty_pipeline(beam_args, total_bytes)
    references = read(settings, record_format.num_classes)
    _clear(output_dir)
    write_result = partial(
        write,
        output_dir=output_dir,
        patterns=dict(inputs),
        record_format=record_format,
        settings=settings,
        references=references,
        statuses=statuses,
    )
    num_buckets = min(MAX_BUCKETS, 1 + total_bytes // BYTES_PER_BUCKET)
    _run(pipeline, shards, record_format, num_buckets, write_result)
    anomalies = json.loads(storage.read_text(storage.join(output_dir, ANOMALIES)))
    if not anomalies["passed"]:
        report = storage.join(output_dir, REPORT)
        raise UserError(_message(anomalies["anomalies"], settings.fail_on, report))
    for split in inputs:
        path = storage.join(output_dir, MANIFEST.format(split=split))
        manifest.verify(manifest.read(path), path)  # nothing changed meanwhile
    return json.loads(storage.read_text(storage.join(output_dir, STATISTICS)))["fingerprint"]


def _clear(output_dir: str) -> None:
    """Overwrite the result of an earlier run, and check that the folder is writable."""
    unfinished = json.dumps({"passed": False, "anomalies": []})
    storage.write_text(storage.join(output_dir, ANOMALIES), unfinished)


def _run(
    pipeline,
    shards: list[Shard],
    record_format: RecordFormat,
    num_buckets: int,
    write_result: Callable[[Result], None],
) -> None:
    import apache_beam as beam

    from components.validate_data.pipeline import Validate

    with runner_errors(pipeline), python_path_for_workers(), pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(shards, reshuffle=False)
            | "Validate" >> Validate(record_format, num_buckets)
            | "Write" >> beam.Map(write_result)
        )


def _message(anomalies: list[dict], fail_on: str, report: str) -> str:
    severities = ("error",) if fail_on == "error" else ("error", "warning")
    if fail_on == "drift":
        anomalies = [row for row in anomalies if row["kind"] in DRIFT]
    lines = [f"Validation failed. Full report: {report}. First example of each finding:"]
    for row in anomalies:
        if row["severity"] not in severities:
            continue
        more = f" ({row['count']:,} in total in {row['split']})" if row["count"] > 1 else ""
        lines.append(f"{row['title']}: {Example(**row['examples'][0])}{more}. {row['advice']}")
    return "\n  ".join(lines)
