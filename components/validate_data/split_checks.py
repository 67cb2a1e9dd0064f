"""What only all files of all splits together can show."""

from collections.abc import Iterable, Sequence

import numpy as np

from components.validate_data.findings import MAX_EXAMPLES, Example, Findings
from components.validate_data.statistics import SplitStatistics

# A file is of an odd size when it has so many times fewer, or more, records than the median one.
ODD_SIZE = 10


def trained_on(splits: Iterable[str]) -> str:
    """The split that others are held against: "train", or else the first one."""
    return "train" if "train" in splits else next(iter(splits))


def check_splits(
    splits: dict[str, SplitStatistics], patterns: dict[str, str], class_names: Sequence[str]
) -> Findings:
    """Findings about whole splits.

    Args:
        splits: Statistics of each split.
        patterns: The files of each split, as the user gave them, and in the user's order.
        class_names: A name a class.
    """
    findings = Findings()
    training = trained_on(patterns)
    for split, pattern in patterns.items():
        statistics = splits[split]
        _check_labels(findings, split, pattern, statistics)
        _check_dimensions(findings, split, pattern, statistics)
        _check_files(findings, split, statistics)
        if split != training and splits[training].labels.any():
            missing = (statistics.labels > 0) & (splits[training].labels == 0)
            _add_classes(findings, "unlearnt_class", split, pattern, missing, class_names)
        elif statistics.labels.any():
            unseen = statistics.labels == 0
            _add_classes(findings, "unseen_class", split, pattern, unseen, class_names)
    return findings


def _check_labels(
    findings: Findings, split: str, pattern: str, statistics: SplitStatistics
) -> None:
    if statistics.videos and not statistics.labels.any():
        reason = f"none of the {statistics.videos} videos has a label"
        findings.add("no_labels", split, Example(pattern, 0, "", reason))


def _check_dimensions(
    findings: Findings, split: str, pattern: str, statistics: SplitStatistics
) -> None:
    if statistics.videos < 2:
        return
    for name, feature in statistics.features.items():
        constant = np.flatnonzero(feature.moments.min == feature.moments.max)
        if constant.size:
            value = feature.moments.min[constant[0]]
            reason = (
                f"{constant.size} of the {len(feature.moments.min)} dimensions of {name!r}, "
                f"the first of which is {constant[0]}, always {value:g}"
            )
            example = Example(pattern, 0, "", reason)
            findings.add("constant_dimension", split, example, count=int(constant.size))


def _check_files(findings: Findings, split: str, statistics: SplitStatistics) -> None:
    whole = [file for file in statistics.files if file[2]]  # the others are findings already
    median = float(np.median([records for _, records, _ in whole])) if whole else 0
    for path, records, _ in whole:
        if records * ODD_SIZE < median or records > median * ODD_SIZE:
            reason = (
                f"{records} record{'s' if records > 1 else ''}; "
                f"half of the files have {median:g} or more"
            )
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
