"""What can be wrong with data: each kind of finding, how bad it is, and what to do about it."""

from dataclasses import dataclass, field
from typing import NamedTuple

MAX_EXAMPLES = 10  # kept of each kind and split; the count goes on


class Kind(NamedTuple):
    """A kind of finding: "error" (would hurt training or evaluation), "warning" or "info"."""

    severity: str
    title: str
    advice: str


# In the order in which they are reported.
KINDS = {
    "unreadable": Kind(
        "error", "Files that cannot be read", "Check the path, the permissions and the disk."
    ),
    "not_tfrecord": Kind(
        "error",
        "Files that are no TFRecord files",
        "Let the pattern match TFRecord files alone; if this was one, make or fetch it anew.",
    ),
    "compressed": Kind(
        "error",
        "Compressed files",
        "Decompress the files, or write them without compression: the features hardly compress.",
    ),
    "empty_file": Kind(
        "error",
        "Files without a record",
        "Make or fetch the file anew: it was probably cut off before its first record.",
    ),
    "truncated": Kind(
        "error",
        "Files cut off within a record",
        "Make or fetch the file anew; what comes after the record named cannot be read.",
    ),
    "header": Kind(
        "error",
        "Records with a damaged length",
        "Make or fetch the file anew; what comes after the record named cannot be read.",
    ),
    "crc": Kind(
        "error",
        "Records that do not match their CRC",
        "Make or fetch the file anew: its bytes have changed since it was written.",
    ),
    "not_an_example": Kind(
        "error",
        "Records that are neither a tf.Example nor a tf.SequenceExample",
        "Check what wrote the file: its records hold something else.",
    ),
    "missing_feature": Kind(
        "error",
        "Missing features",
        "Set feature_names and frame_features to what the records hold.",
    ),
    "wrong_type": Kind(
        "error",
        "Features of the wrong type",
        "Video-level features are floats, frames are byte strings, labels are int64.",
    ),
    "wrong_size": Kind(
        "error",
        "Features of the wrong size",
        "Set feature_sizes to the sizes that the records hold, or make the records anew.",
    ),
    "no_frames": Kind("error", "Videos without frames", "Leave these videos out of the data."),
    "not_finite": Kind(
        "error",
        "NaN or infinity",
        "Leave these videos out of the data; one of them makes every weight NaN.",
    ),
    "label_out_of_range": Kind(
        "error",
        "Labels out of range",
        "Set num_classes to the number of classes of the data, or check the labels.",
    ),
    "no_id": Kind("error", "Videos without an id", "Give every record one `id` (or `video_id`)."),
    "leak": Kind(
        "error",
        "Videos in several splits",
        "Take these videos out of one split: a model is not to be evaluated on what it has seen.",
    ),
    "schema": Kind(
        "error",
        "Data that does not fit the schema",
        "Mend the data; or, if it is right, change the schema, which is a text file to edit.",
    ),
    "duplicate": Kind(
        "warning",
        "Videos that come several times in a split",
        "Take the copies out: they count as often as they come.",
    ),
    "no_labels": Kind(
        "warning",
        "Splits without any label",
        "Nothing can be learnt from such a split, nor measured on it; a test split may be one.",
    ),
    "different_lengths": Kind(
        "warning",
        "Videos whose features differ in their number of frames",
        "Make the features of a video from the same frames; the shorter one is filled with zeros.",
    ),
    "many_frames": Kind(
        "warning",
        "Videos with more frames than are used",
        "Cut the videos to save space and reading, if the frames after the last one used are many.",
    ),
    "constant": Kind(
        "warning",
        "Features that are zero, or constant, all through a vector or frame",
        "Look at how these features were made: they say nothing of the video.",
    ),
    "constant_dimension": Kind(
        "warning",
        "Dimensions that are the same in all videos of a split",
        "Look at how the feature was made: a dimension that never changes says nothing.",
    ),
    "out_of_range": Kind(
        "warning",
        "Values outside the quantiser's range",
        "Check that these features were made, and de-quantised, as the published ones.",
    ),
    "repeated_label": Kind(
        "warning",
        "Labels that come several times in a video",
        "Write each label once; it counts once.",
    ),
    "file_size": Kind(
        "warning",
        "Files with far fewer, or far more, records than the others",
        "Check that the file is whole; uneven files also keep readers waiting.",
    ),
    "label_drift": Kind(
        "warning",
        "Labels distributed differently",
        "Find out why: a model learns how frequent a class is, and is measured by it.",
    ),
    "feature_drift": Kind(
        "warning",
        "Features distributed differently",
        "Find out whether the features were made in the same way.",
    ),
    "unlabelled": Kind(
        "info",
        "Videos without a label",
        "Nothing to do, if they are meant to be; they count as wrong in Hit@1 and PERR.",
    ),
    "extra_feature": Kind(
        "info",
        "Features that are not used",
        "Nothing to do; to train on one, add it to feature_names and feature_sizes.",
    ),
    "unseen_class": Kind(
        "info",
        "Classes without a video",
        "Nothing to do; with none in the training split, a class is never predicted.",
    ),
    "unlearnt_class": Kind(
        "info",
        "Classes of which only the training split has no video",
        "They cannot be learnt: spread their videos over the splits, or accept the lower mAP.",
    ),
}
SEVERITIES = ("error", "warning", "info")


class Example(NamedTuple):
    """One place where something is wrong. Sorts by place."""

    file: str
    record: int  # the first is 1; 0: the file as a whole
    id: str
    reason: str

    def __str__(self):
        place = f"{self.file}, record {self.record}" if self.record else self.file
        return f"{place}: {self.reason}"


@dataclass
class Finding:
    """All of one kind in one split: how many, and the first few places."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Findings:
    """All findings, by kind and split. Merging is the same in any order."""

    found: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, kind: str, split: str, *examples: Example, count: int = 1) -> None:
        """Adds `count` findings, with the first places of them."""
        self._add(kind, split, Finding(count, list(examples)))

    def merge(self, other: "Findings") -> None:
        for (kind, split), finding in other.found.items():
            self._add(kind, split, finding)

    def _add(self, kind: str, split: str, added: Finding) -> None:
        finding = self.found.setdefault((kind, split), Finding())
        finding.count += added.count
        if len(finding.examples) == MAX_EXAMPLES and finding.examples[-1] <= min(added.examples):
            return  # as it is while one file is read, where places only grow
        finding.examples = sorted([*finding.examples, *added.examples])[:MAX_EXAMPLES]

    def has(self, severity: str) -> bool:
        """Whether there is a finding of that severity."""
        return any(KINDS[kind].severity == severity for kind, _ in self.found)

    def as_rows(self) -> list[dict]:
        """One dict a finding, ready for JSON, the worst first."""
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
