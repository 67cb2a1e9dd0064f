"""What the data is compared with: a vocabulary, the statistics of an earlier run, a schema."""

import csv
import io
import json
from dataclasses import dataclass, field

from components.validate_data import schema
from components.validate_data.drift import Thresholds
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.vocabulary import read_names

SEVERITIES_TO_FAIL_ON = ("error", "warning", "never")


@dataclass(frozen=True)
class Settings:
    """How strict to be, and what to compare with. Paths are local or gs://; "": none.

    Attributes:
        fail_on: The least severe kind of findings that fails the run: "error", "warning"; "never".
        vocabulary: CSV file of the classes' names.
        baseline: statistics.json of an earlier run.
        schema: schema.pbtxt to hold the data to.
        thresholds: The distances from which on there is drift.

    Raises:
        UserError: fail_on is none of the three.
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
    """What the files named in the settings hold.

    Attributes:
        class_names: A name a class.
        published_counts: Class -> TrainVideoCount, where the vocabulary has it.
        baseline: The splits of the earlier run, by name; none where there was none.
        schema: A schema.PROTO.Schema, as text; "": none.
    """

    class_names: list[str]
    published_counts: dict[int, int]
    baseline: dict[str, dict]
    schema: str


def read(settings: Settings, num_classes: int) -> References:
    """Reads the files named in the settings.

    Raises:
        UserError: a file is missing, or not what it must be.
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
    schema.parse(text, path)  # to refuse it now, and not at the end
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
