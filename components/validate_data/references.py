"""Settings, and the files they name: a vocabulary, a baseline's statistics and a schema."""

import csv
import io
import json
from dataclasses import dataclass, field

from components.validate_data import schema
from components.validate_data.drift import Thresholds
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.vocabulary import read_names

SEVERITIES_TO_FAIL_ON = ("error", "warning", "drift", "never")


@dataclass(frozen=True)
class Settings:
    """Settings of a validation run. Paths are local or gs://; "" means none.

    Attributes:
        fail_on: Minimum severity that fails the run: "error", "warning" or "never"; or "drift",
            which drift alone fails, as in a check of served inputs.
        vocabulary: CSV file with class names.
        baseline: statistics.json of an earlier run, to detect drift.
        schema: schema.pbtxt to enforce.
        thresholds: Distances above which drift is reported.

    Raises:
        UserError: `fail_on` is not one of these values.
    """

    fail_on: str = "error"
    vocabulary: str = ""
    baseline: str = ""
    schema: str = ""
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self):
        if self.fail_on not in SEVERITIES_TO_FAIL_ON:
            expected = ", ".join(SEVERITIES_TO_FAIL_ON)
            raise UserError(f"--fail_on must be one of {expected}; got {self.fail_on!r}.")


@dataclass(frozen=True)
class References:
    """Contents of the files named in the settings.

    Attributes:
        class_names: Class names, [num_classes].
        published_counts: Class id -> TrainVideoCount; empty if the vocabulary has none.
        baseline: Split -> statistics of the earlier run; empty without a baseline.
        schema: A Schema in text format; "" without a schema.
    """

    class_names: list[str]
    published_counts: dict[int, int]
    baseline: dict[str, dict]
    schema: str


def read(settings: Settings, num_classes: int) -> References:
    """Read the files named in the settings.

    Raises:
        UserError: A file is missing or invalid.
    """
    return References(
        read_names(settings.vocabulary, num_classes),
        _published_counts(settings.vocabulary, num_classes) if settings.vocabulary else {},
        _baseline(settings.baseline) if settings.baseline else {},
        _schema(settings.schema) if settings.schema else "",
    )


def _published_counts(path: str, num_classes: int) -> dict[int, int]:
    rows = csv.DictReader(io.StringIO(storage.read_text(path)))
    if not {"Index", "TrainVideoCount"} <= set(rows.fieldnames or ()):
        return {}
    counts = {
        int(row["Index"]): int(row["TrainVideoCount"])
        for row in rows
        if (row["TrainVideoCount"] or "").isdecimal()
    }
    return {index: count for index, count in counts.items() if index < num_classes}


def _schema(path: str) -> str:
    text = storage.read_text(path)
    schema.parse(text, path)  # fail now rather than at the end
    return text


def _baseline(path: str) -> dict[str, dict]:
    text = storage.read_text(path)
    try:
        splits = json.loads(text)["splits"]
        known = [{"videos", "labels", "features"} <= split.keys() for split in splits.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        known = [False]
    if not all(known):
        raise UserError(f"--baseline must be the statistics.json of an earlier run; {path} is not.")
    return splits
