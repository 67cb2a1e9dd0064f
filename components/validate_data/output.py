"""Writes what a run found: statistics.json, anomalies.json and report.html."""

import hashlib
import json

import numpy as np

from components.report import render
from components.validate_data import drift, page
from components.validate_data.findings import Example, Findings
from components.validate_data.references import References, Settings
from components.validate_data.split_checks import check_splits
from components.validate_data.statistics import FeatureStatistics, Result, SplitStatistics
from trainer import storage
from trainer.records import MIN_VALUE, QUANTUM

STATISTICS, ANOMALIES, REPORT = "statistics.json", "anomalies.json", "report.html"

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
# Bins of the values of a feature: four values of the quantiser each, and together all of them.
BIN_EDGES = MIN_VALUE - QUANTUM / 2 + 4 * QUANTUM * np.arange(65)


def write(
    result: Result,
    output_dir: str,
    patterns: dict[str, str],
    settings: Settings,
    references: References,
) -> None:
    """Writes the three files. `patterns` are the files of each split, as the user gave them."""
    splits = {
        split: {"pattern": pattern, **describe(result.splits[split])}
        for split, pattern in patterns.items()
    }
    findings = result.findings
    findings.merge(check_splits(result.splits, patterns, references.class_names))
    comparisons = _compare(splits, settings, references, findings)
    statistics = {
        "fingerprint": fingerprint(result.splits),
        "splits": splits,
        "comparisons": comparisons,
    }
    anomalies = {"passed": not fails(findings, settings.fail_on), "anomalies": findings.as_rows()}
    html = render("validate_data/report.html", **page.context(statistics, anomalies, references))
    storage.write_text(storage.join(output_dir, STATISTICS), json.dumps(statistics))
    storage.write_text(storage.join(output_dir, REPORT), html)
    # Last: who finds this one finds the others too.
    storage.write_text(storage.join(output_dir, ANOMALIES), json.dumps(anomalies, indent=2))


def fails(findings: Findings, fail_on: str) -> bool:
    """Whether there is a finding that the run must fail for."""
    return {
        "never": False,
        "error": findings.has("error"),
        "warning": findings.has("error") or findings.has("warning"),
    }[fail_on]


def fingerprint(splits: dict[str, SplitStatistics]) -> str:
    """64 hex digits that stand for the bytes of all records of each split."""
    lines = [f"{split} {splits[split].digest:064x}\n" for split in sorted(splits)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _compare(
    splits: dict[str, dict], settings: Settings, references: References, findings: Findings
) -> list[dict]:
    """Each split against the first one, and against itself in the baseline."""
    first, *others = splits
    pairs = [(split, first, splits[first]) for split in others]
    pairs += [
        (split, f"{split} of the baseline", references.baseline[split])
        for split in splits
        if split in references.baseline
    ]
    comparisons = []
    for split, name, other in pairs:
        comparison = drift.compare(splits[split], other)
        comparisons.append({"split": split, "against": name, **comparison})
        found = drift.find(comparison, settings.thresholds, references.class_names)
        for kind, reason in found:
            example = Example(splits[split]["pattern"], 0, "", f"against {name}: {reason}")
            findings.add(kind, split, example)
    return comparisons


def describe(statistics: SplitStatistics) -> dict:
    """Statistics of a split, ready for JSON."""
    return {
        "files": [
            {"path": path, "records": records, "bytes": num_bytes}
            for path, records, num_bytes in sorted(statistics.files)
        ],
        "bytes": statistics.bytes,
        "records": statistics.records,
        "videos": statistics.videos,
        "labels": statistics.labels.tolist(),
        "labels_per_video": statistics.labels_per_video.tolist(),
        "frames_per_video": statistics.frames_per_video.tolist(),
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
            f"{share:g}": _numbers(np.clip(sketch.quantile(share), moments.min, moments.max))
            for share in QUANTILES
        },
        "histogram": {
            "edges": _numbers(BIN_EDGES),
            "counts": _numbers(sketch.histogram(BIN_EDGES)),
        },
    }


def _numbers(values: np.ndarray) -> list[float]:
    """In as many digits as do not depend on the order in which files were merged."""
    return [float(f"{value:.9g}") for value in values]
