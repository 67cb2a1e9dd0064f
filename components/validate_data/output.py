"""Writes what a run found: statistics.json, anomalies.json and report.html."""

import hashlib
import json

import numpy as np

from components.report import render
from components.validate_data import page
from components.validate_data.findings import Example, Findings
from components.validate_data.statistics import (
    BIN_EDGES,
    FeatureStatistics,
    Result,
    SplitStatistics,
)
from trainer import storage

STATISTICS, ANOMALIES, REPORT = "statistics.json", "anomalies.json", "report.html"


def write(result: Result, output_dir: str, patterns: dict[str, str]) -> None:
    """Writes the three files. `patterns` is the pattern of each split's files."""
    statistics = {
        "fingerprint": fingerprint(result.splits),
        "splits": {
            split: {"pattern": pattern, **_split(result.splits[split])}
            for split, pattern in patterns.items()
        },
    }
    findings = result.findings
    for split in patterns:
        _check_split(split, result.splits[split], patterns[split], findings)
    anomalies = {"passed": not findings.has("error"), "anomalies": findings.as_rows()}
    html = render("validate_data/report.html", **page.context(statistics, anomalies))
    storage.write_text(storage.join(output_dir, STATISTICS), json.dumps(statistics))
    storage.write_text(storage.join(output_dir, REPORT), html)
    # Last: who finds this one finds the others too.
    storage.write_text(storage.join(output_dir, ANOMALIES), json.dumps(anomalies, indent=2))


def fingerprint(splits: dict[str, SplitStatistics]) -> str:
    """64 hex digits that stand for the bytes of all records of each split."""
    lines = [f"{split} {splits[split].digest:064x}\n" for split in sorted(splits)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_split(split: str, statistics: SplitStatistics, pattern: str, findings: Findings):
    """Adds what only all files of a split together can show."""
    if statistics.videos and not statistics.labels.any():
        reason = f"none of the {statistics.videos} videos has a label"
        findings.add("no_labels", split, Example(pattern, 0, "", reason))


def _split(statistics: SplitStatistics) -> dict:
    return {
        "files": statistics.files,
        "bytes": statistics.bytes,
        "records": statistics.records,
        "videos": statistics.videos,
        "labels": statistics.labels.tolist(),
        "labels_per_video": statistics.labels_per_video.tolist(),
        "frames_per_video": statistics.frames_per_video.tolist(),
        "features": {name: _feature(of) for name, of in sorted(statistics.features.items())},
    }


def _feature(statistics: FeatureStatistics) -> dict:
    return {
        "count": statistics.count,
        "mean": _numbers(statistics.mean),
        "std": _numbers(statistics.std),
        "min": _numbers(statistics.min),
        "max": _numbers(statistics.max),
        "zeros": statistics.zeros.tolist(),
        "histogram": {
            "edges": _numbers(BIN_EDGES),
            "below": int(statistics.histogram[0]),
            "counts": statistics.histogram[1:-1].tolist(),
            "above": int(statistics.histogram[-1]),
        },
    }


def _numbers(values: np.ndarray) -> list[float]:
    """In as many digits as do not depend on the order in which files were merged."""
    return [float(f"{value:.9g}") for value in values]
