"""The step: checks all records, writes statistics and reports, and says whether to go on."""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence

from components.validate_data.beam_options import complete
from components.validate_data.output import ANOMALIES, REPORT, STATISTICS, write
from components.validate_data.shard import Shard
from trainer import storage
from trainer.errors import UserError
from trainer.records import RecordFormat

# Ids are compared within buckets, each of which a worker holds in memory at once.
BYTES_PER_BUCKET = 16 << 30
MAX_BUCKETS = 256


def validate(
    inputs: Mapping[str, str],
    output_dir: str,
    record_format: RecordFormat,
    beam_args: Sequence[str] = (),
) -> str:
    """Reads every record of every split; writes statistics.json, anomalies.json, report.html.

    Args:
        inputs: Split -> its files, as patterns separated by commas.
        output_dir: Where to write; local or gs://.
        record_format: What to expect of every record.
        beam_args: Any options of Beam, as on a command line, e.g. "--runner=FlinkRunner". Without
            a runner, this process does the work.

    Returns:
        A fingerprint of the data, in hex: the same for the same records, wherever their files lie
        and however they are named.

    Raises:
        UserError: a pattern matches no file, output_dir cannot be written, or the data has errors
            that would hurt training; the message names file and record of each kind's first.
    """
    shards = [
        Shard(split, path) for split, pattern in inputs.items() for path in storage.glob(pattern)
    ]
    with _quiet():
        options = complete(beam_args)
    _clear(output_dir)
    _run(shards, dict(inputs), output_dir, record_format, options)
    anomalies = json.loads(storage.read_text(storage.join(output_dir, ANOMALIES)))
    if not anomalies["passed"]:
        raise UserError(_message(anomalies["anomalies"], storage.join(output_dir, REPORT)))
    return json.loads(storage.read_text(storage.join(output_dir, STATISTICS)))["fingerprint"]


def _clear(output_dir: str) -> None:
    """Makes sure that what is read in the end is of this run, and that it can be written."""
    unfinished = json.dumps({"passed": False, "anomalies": []})
    storage.write_text(storage.join(output_dir, ANOMALIES), unfinished)


def _run(
    shards: list[Shard],
    patterns: dict[str, str],
    output_dir: str,
    record_format: RecordFormat,
    options: list[str],
) -> None:
    import apache_beam as beam

    from components.validate_data.pipeline import Validate

    total_bytes = sum(storage.size(shard.path) for shard in shards)
    num_buckets = min(MAX_BUCKETS, 1 + total_bytes // BYTES_PER_BUCKET)
    with beam.Pipeline(argv=options) as pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create(shards, reshuffle=False)
            | "Validate" >> Validate(record_format, num_buckets)
            | "Write" >> beam.Map(write, output_dir, patterns)
        )


@contextlib.contextmanager
def _quiet():
    """Beam warns of Google services that are not installed, and of options that we check."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _message(anomalies: list[dict], report: str) -> str:
    errors = [row for row in anomalies if row["severity"] == "error"]
    lines = [f"The data must not be trained on. All that was found is in {report}; in short:"]
    for row in errors:
        first = row["examples"][0]
        place = f"{first['file']}, record {first['record']}" if first["record"] else first["file"]
        more = f" ({row['count']} such in {row['split']})" if row["count"] > 1 else ""
        lines.append(f"{row['title']}: {place}: {first['reason']}{more}. {row['advice']}")
    return "\n  ".join(lines)
