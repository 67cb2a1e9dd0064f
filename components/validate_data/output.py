"""Write the results: statistics, findings, a schema and a report."""

import hashlib
import json

import numpy as np
from google.protobuf import text_format

from components.report import render
from components.validate_data import drift, report_context, schema
from components.validate_data.findings import Example, Findings
from components.validate_data.observed import observe
from components.validate_data.references import References, Settings
from components.validate_data.split_checks import check_splits, training_split
from components.validate_data.statistics import FeatureStatistics, Result, SplitStatistics
from components.validate_data.tfdv_export import to_proto
from trainer.common import storage
from trainer.data import manifest
from trainer.data.records import MIN_VALUE, QUANTUM, RecordFormat

STATISTICS, ANOMALIES, REPORT = "statistics.json", "anomalies.json", "report.html"
MANIFEST = "{split}" + manifest.SUFFIX
SCHEMA, TFDV_STATISTICS = "schema.pbtxt", "statistics.pb"

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
# Histogram bins: four values of the quantizer each, covering its whole range.
BIN_EDGES = MIN_VALUE - QUANTUM / 2 + 4 * QUANTUM * np.arange(65)


def write(
    result: Result,
    output_dir: str,
    patterns: dict[str, str],
    record_format: RecordFormat,
    settings: Settings,
    references: References,
    statuses: dict[str, storage.FileStatus],
) -> None:
    """Write the output files.

    Args:
        result: What was found in the records.
        output_dir: Output folder.
        patterns: Split -> the file pattern given by the user.
        record_format: The expected format of the records.
        settings: Severity that fails the run, and more.
        references: What to compare the data with.
        statuses: Path -> status of each file before it was read.
    """
    split_statistics = {
        split: result.splits[split] for split in patterns
    }  # runners return any order
    splits = {
        split: {"pattern": pattern, **describe(split_statistics[split], record_format)}
        for split, pattern in patterns.items()
    }
    findings = result.findings
    findings.merge(check_splits(split_statistics, patterns, references.class_names))
    comparisons = _compare(splits, settings, references, findings)
    _enforce(split_statistics, patterns, record_format, references.schema, findings)
    statistics = {
        "fingerprint": fingerprint(split_statistics),
        "splits": splits,
        "comparisons": comparisons,
    }
    anomalies = {"passed": not fails(findings, settings.fail_on), "anomalies": findings.as_rows()}
    context = report_context.context(statistics, anomalies, references)
    html = render("validate_data/report.html", **context)
    manifests = {
        MANIFEST.format(split=split): manifest.create(
            statuses, [(path, records, checksum) for path, records, _, checksum in data.files]
        )
        for split, data in split_statistics.items()
    }
    files = {
        **{name: listed.to_json().encode() for name, listed in manifests.items()},
        STATISTICS: json.dumps(statistics).encode(),
        TFDV_STATISTICS: to_proto(split_statistics, record_format).SerializeToString(),
        SCHEMA: _infer(split_statistics, record_format).encode(),
        REPORT: html.encode(),
        ANOMALIES: json.dumps(
            anomalies, indent=2
        ).encode(),  # last: its presence means all are complete
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(output_dir, name), data)


def fails(findings: Findings, fail_on: str) -> bool:
    """Return whether a finding has the severity that fails the run."""
    return {
        "never": False,
        "drift": findings.has_drift(),
        "error": findings.has("error"),
        "warning": findings.has("error") or findings.has("warning"),
    }[fail_on]


def fingerprint(splits: dict[str, SplitStatistics]) -> str:
    """Return a SHA-256 digest, in hex, of the records of all splits."""
    lines = [f"{split} {splits[split].digest:064x}\n" for split in sorted(splits)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _compare(
    splits: dict[str, dict], settings: Settings, references: References, findings: Findings
) -> list[dict]:
    """Compare each split with the training split and with the baseline."""
    first = training_split(splits)
    pairs = [(split, first, splits[first]) for split in splits if split != first]
    for split in splits if references.baseline else ():
        # Data to predict, or a log of served requests, is compared with the training data.
        name = split if split in references.baseline else training_split(references.baseline)
        pairs.append((split, f"{name} (baseline)", references.baseline[name]))
    comparisons = []
    for split, name, other in pairs:
        comparison = drift.compare(splits[split], other)
        comparisons.append({"split": split, "against": name, **comparison})
        found = drift.find(comparison, settings.thresholds, references.class_names)
        for kind, reason in found:
            example = Example(splits[split]["pattern"], 0, "", f"compared with {name}: {reason}")
            findings.add(kind, split, example)
    return comparisons


def _infer(splits: dict[str, SplitStatistics], record_format: RecordFormat) -> str:
    statistics = splits[training_split(splits)]
    observed = observe(statistics, record_format)
    return text_format.MessageToString(schema.infer(observed, statistics.num_videos, record_format))


def _enforce(
    splits: dict[str, SplitStatistics],
    patterns: dict[str, str],
    record_format: RecordFormat,
    text: str,
    findings: Findings,
) -> None:
    if not text:
        return
    expected = schema.parse(text, "--schema")
    for split, pattern in patterns.items():
        observed = observe(splits[split], record_format)
        for reason in schema.enforce(expected, split, observed, splits[split].num_videos):
            findings.add("schema", split, Example(pattern, 0, "", reason))


def describe(statistics: SplitStatistics, record_format: RecordFormat) -> dict:
    """Return the statistics of a split as JSON values."""
    first = statistics.features[record_format.features[0].name]
    return {
        "files": [
            {"path": path, "records": records, "bytes": num_bytes}
            for path, records, num_bytes, _ in sorted(statistics.files)
        ],
        "bytes": statistics.num_bytes,
        "records": statistics.num_records,
        "videos": statistics.num_videos,
        "labels": statistics.label_counts.tolist(),
        "labels_per_video": statistics.labels_per_video.tolist(),
        "frames_per_video": first.lengths.tolist() if record_format.frame_features else [],
        "extra": [
            {"name": name, "type": kind, "videos": videos}
            for (name, kind), videos in sorted(statistics.extra.items())
        ],
        "features": {
            name: _describe_feature(feature)
            for name, feature in statistics.features.items()
            if feature.moments.count
        },
    }


def _describe_feature(statistics: FeatureStatistics) -> dict:
    moments, sketch = statistics.moments, statistics.sketch
    return {
        "count": moments.count,
        "mean": _numbers(moments.mean),
        "std": _numbers(moments.std),
        "min": _numbers(moments.min),
        "max": _numbers(moments.max),
        "zeros": moments.zeros.tolist(),
        "quantiles": {
            f"{q:g}": _numbers(np.clip(sketch.quantile(q), moments.min, moments.max))
            for q in QUANTILES
        },
        "histogram": {
            "edges": _numbers(BIN_EDGES),
            "counts": _numbers(sketch.histogram(BIN_EDGES)),
        },
    }


def _numbers(values: np.ndarray) -> list[float]:
    """Round to 9 digits, which do not depend on the order of merging."""
    return [float(f"{value:.9g}") for value in values]
