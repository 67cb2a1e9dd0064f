"""Findings about whole splits, computed from their statistics."""

from collections.abc import Iterable, Sequence

import numpy as np

from components.validate_data.findings import MAX_EXAMPLES, Example, Findings
from components.validate_data.statistics import SplitStatistics

# Report files with this many times fewer, or more, records than the median file.
MAX_SIZE_RATIO = 10


def training_split(splits: Iterable[str]) -> str:
    """Return the split that others are compared with: "train" if present, or the first one."""
    return "train" if "train" in splits else next(iter(splits))


def check_splits(
    splits: dict[str, SplitStatistics], patterns: dict[str, str], class_names: Sequence[str]
) -> Findings:
    """Return the findings about whole splits.

    Args:
        splits: Split -> statistics.
        patterns: Split -> file pattern, in the order given by the user.
        class_names: Class names, [num_classes].
    """
    findings = Findings()
    training = training_split(patterns)
    for split, pattern in patterns.items():
        statistics = splits[split]
        _check_labels(findings, split, pattern, statistics)
        _check_dimensions(findings, split, pattern, statistics)
        _check_files(findings, split, statistics)
        if split != training and splits[training].label_counts.any():
            missing = (statistics.label_counts > 0) & (splits[training].label_counts == 0)
            _add_classes(findings, "untrained_class", split, pattern, missing, class_names)
        elif statistics.label_counts.any():
            empty = statistics.label_counts == 0
            _add_classes(findings, "empty_class", split, pattern, empty, class_names)
    return findings


def _check_labels(
    findings: Findings, split: str, pattern: str, statistics: SplitStatistics
) -> None:
    if statistics.num_videos and not statistics.label_counts.any():
        reason = f"none of the {statistics.num_videos} videos has a label"
        findings.add("no_labels", split, Example(pattern, 0, "", reason))


def _check_dimensions(
    findings: Findings, split: str, pattern: str, statistics: SplitStatistics
) -> None:
    if statistics.num_videos < 2:
        return
    for name, feature in statistics.features.items():
        constant = np.flatnonzero(feature.moments.min == feature.moments.max)
        if constant.size:
            low = feature.moments.min
            reason = (
                f"{constant.size} of {len(low)} dimensions of {name!r} are constant; "
                f"dimension {constant[0]} is always {low[constant[0]]:g}"
            )
            example = Example(pattern, 0, "", reason)
            findings.add("constant_dimension", split, example, count=int(constant.size))


def _check_files(findings: Findings, split: str, statistics: SplitStatistics) -> None:
    readable = [file for file in statistics.files if file[2]]  # others have findings already
    median = float(np.median([records for _, records, *_ in readable])) if readable else 0
    for path, records, *_ in readable:
        if records * MAX_SIZE_RATIO < median or records > median * MAX_SIZE_RATIO:
            reason = f"{records} record{'s' if records > 1 else ''}; the median file has {median:g}"
            findings.add("file_size", split, Example(path, 0, "", reason))


def _add_classes(
    findings: Findings,
    kind: str,
    split: str,
    pattern: str,
    chosen: np.ndarray,
    class_names: Sequence[str],
) -> None:
    classes = np.flatnonzero(chosen)
    examples = [
        Example(pattern, 0, "", f"class {number:4d}, {class_names[number]!r}")
        for number in classes[:MAX_EXAMPLES]
    ]
    if examples:
        findings.add(kind, split, *examples, count=int(classes.size))
