"""Kinds of findings with their severity and advice, and the findings of a run."""

from dataclasses import dataclass, field
from typing import NamedTuple

MAX_EXAMPLES = 10  # stored per kind and split; all are counted


class Kind(NamedTuple):
    """A kind of finding. Severity: "error" (harms training or evaluation), "warning" or "info"."""

    severity: str
    title: str
    advice: str


DRIFT = ("label_drift", "feature_drift")

# In the order of the report.
KINDS = {
    "unreadable": Kind(
        "error", "Unreadable files", "Check the path, the permissions and the disk."
    ),
    "not_tfrecord": Kind(
        "error",
        "Files in another format than TFRecord",
        "Restrict the pattern to TFRecord files, or download the file again if it is damaged.",
    ),
    "compressed": Kind(
        "error",
        "Compressed files",
        "Decompress the files, or write them uncompressed: the features hardly compress.",
    ),
    "empty_file": Kind(
        "error",
        "Empty files",
        "Write or download the file again: it was probably truncated before its first record.",
    ),
    "truncated": Kind(
        "error",
        "Truncated files",
        "Write or download the file again; the records after the one listed cannot be read.",
    ),
    "header": Kind(
        "error",
        "Records with a damaged length",
        "Write or download the file again; the records after the one listed cannot be read.",
    ),
    "crc": Kind(
        "error",
        "Records with a wrong checksum (CRC)",
        "Write or download the file again: it has been corrupted since it was written.",
    ),
    "not_an_example": Kind(
        "error",
        "Records that are neither a tf.Example nor a tf.SequenceExample",
        "Check the program that wrote the file: its records have another format.",
    ),
    "missing_feature": Kind(
        "error",
        "Missing features",
        "Set feature_names and frame_features to match the records.",
    ),
    "wrong_type": Kind(
        "error",
        "Features of the wrong type",
        "Video-level features must be floats, frames byte strings, and labels int64.",
    ),
    "wrong_size": Kind(
        "error",
        "Features of the wrong size",
        "Set feature_sizes to match the records, or write the records again.",
    ),
    "different_lengths": Kind(
        "error",
        "Features of a video with different numbers of frames",
        "Extract all features of a video from the same frames.",
    ),
    "no_frames": Kind("error", "Videos without frames", "Remove these videos from the data."),
    "not_finite": Kind(
        "error",
        "NaN or infinite values",
        "Remove these videos from the data: a single NaN makes all weights NaN.",
    ),
    "label_out_of_range": Kind(
        "error",
        "Labels out of range",
        "Set num_classes to the number of classes in the data, or correct the labels.",
    ),
    "no_id": Kind("error", "Videos without an id", "Add an `id` (or `video_id`) to each record."),
    "leak": Kind(
        "error",
        "Videos in several splits",
        "Remove these videos from one split: evaluation on training data is too optimistic.",
    ),
    "schema": Kind(
        "error",
        "Data that violates the schema",
        "Correct the data or, if the data is right, edit the schema, which is a text file.",
    ),
    "duplicate": Kind(
        "warning",
        "Duplicate videos within a split",
        "Remove the duplicates: each copy adds to the weight of the video.",
    ),
    "no_labels": Kind(
        "warning",
        "Splits without labels",
        "The split is unusable for training and evaluation; this is normal for a test split.",
    ),
    "many_frames": Kind(
        "warning",
        "Videos with unused frames",
        "Truncate the videos to save storage and reading time if many frames are unused.",
    ),
    "constant": Kind(
        "warning",
        "Constant vectors or frames",
        "Check the feature extraction: constant values carry no information.",
    ),
    "constant_dimension": Kind(
        "warning",
        "Constant dimensions",
        "Check the feature extraction: constant dimensions carry no information.",
    ),
    "out_of_range": Kind(
        "warning",
        "Values outside the quantizer's range",
        "Check that these features were extracted and de-quantized like the published ones.",
    ),
    "repeated_label": Kind(
        "warning",
        "Repeated labels",
        "Write each label once; repetitions are ignored.",
    ),
    "unusual_id": Kind(
        "warning",
        "Ids with commas, quotes, line breaks or bytes that are not UTF-8",
        "Check the program that wrote the ids; in CSV files of predictions they are quoted.",
    ),
    "file_size": Kind(
        "warning",
        "Files with an unusual number of records",
        "Check that the file is complete; uneven files also slow down parallel reading.",
    ),
    "label_drift": Kind(
        "warning",
        "Label drift",
        "Find the cause: models learn class frequencies, and metrics depend on them.",
    ),
    "feature_drift": Kind(
        "warning",
        "Feature drift",
        "Check whether the features were extracted in the same way.",
    ),
    "unlabelled": Kind(
        "info",
        "Unlabelled videos",
        "No action if intended; they count as wrong in Hit@1 and PERR.",
    ),
    "extra_feature": Kind(
        "info",
        "Unused features",
        "No action; to train on a feature, add it to feature_names and feature_sizes.",
    ),
    "empty_class": Kind(
        "info",
        "Classes without videos",
        "No action; a class without training videos is never predicted.",
    ),
    "untrained_class": Kind(
        "info",
        "Classes missing from the training split",
        "They cannot be learned: distribute their videos over the splits, or accept a lower mAP.",
    ),
}
SEVERITIES = ("error", "warning", "info")


class Example(NamedTuple):
    """The location of a finding. Sorts by location."""

    file: str
    record: int  # from 1; 0 for the whole file
    id: str
    reason: str

    def __str__(self):
        place = f"{self.file}, record {self.record}" if self.record else self.file
        return f"{place}: {self.reason}"


@dataclass
class Finding:
    """All findings of one kind in one split: their number and the first examples."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Findings:
    """Findings by kind and split. The result of merging does not depend on the order."""

    found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, kind: str, split: str, *examples: Example, count: int = 1) -> None:
        """Add `count` findings and their first examples."""
        self._add(kind, split, Finding(count, list(examples)))

    def merge(self, other: "Findings") -> None:
        for (kind, split), finding in other.found.items():
            self._add(kind, split, finding)

    def _add(self, kind: str, split: str, added: Finding) -> None:
        finding = self.found.setdefault((kind, split), Finding())
        finding.count += added.count
        if len(finding.examples) == MAX_EXAMPLES and finding.examples[-1] <= min(added.examples):
            return  # fast path: within a file, locations are in ascending order
        finding.examples = sorted([*finding.examples, *added.examples])[:MAX_EXAMPLES]

    def has(self, severity: str) -> bool:
        """Return whether there is a finding of this severity."""
        return any(KINDS[kind].severity == severity for kind, _ in self.found)

    def has_drift(self) -> bool:
        """Return whether there is a finding of drift."""
        return any(kind in DRIFT for kind, _ in self.found)

    def as_rows(self) -> list[dict]:
        """Return one JSON object per finding, most severe first."""
        order = list(KINDS)
        rows = sorted(self.found.items(), key=lambda row: (order.index(row[0][0]), row[0][1]))
        rows = [
            {
                "kind": kind,
                "split": split,
                **KINDS[kind]._asdict(),
                "count": finding.count,
                "examples": [example._asdict() for example in finding.examples],
            }
            for (kind, split), finding in rows
        ]
        return sorted(rows, key=lambda row: SEVERITIES.index(row["severity"]))
