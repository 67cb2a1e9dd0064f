"""Class names from a vocabulary file."""

import csv
import io

from trainer.common import storage
from trainer.common.errors import UserError

# Headers of the columns with class id and name in the published vocabularies: YouTube-8M 2018,
# YouTube-8M 2017, AudioSet.
COLUMNS = (("Index", "Name"), ("label_id", "label_name"), ("index", "display_name"))

MAX_DIGITS = 18  # of a class id


def read_names(path: str, num_classes: int) -> list[str]:
    """Return the class names by class id; "class 12" if the vocabulary has no name for class 12.

    Args:
        path: a CSV file with one of the `COLUMNS` pairs, in any order of rows; "" for none.
        num_classes: number of names to return.

    Raises:
        UserError: the file is missing, has other columns, or has an invalid class id.
    """
    names = [f"class {i}" for i in range(num_classes)]
    if not path:
        return names
    try:
        return _fill(names, path, storage.read_text(path).removeprefix("\ufeff"))
    except csv.Error as error:
        raise UserError(f"The vocabulary {path} must be a CSV file: {error}.") from error


def _fill(names: list[str], path: str, text: str) -> list[str]:
    # All kinds of line ends become "\n".
    rows = csv.DictReader(io.StringIO(text, newline=None))
    columns = next((c for c in COLUMNS if set(c) <= set(rows.fieldnames or ())), None)
    if columns is None:
        expected = " or ".join(f"{index},{name}" for index, name in COLUMNS)
        raise UserError(
            f"The vocabulary {path} must have the columns {expected}; got {rows.fieldnames}."
        )
    for row in rows:
        index, name = row[columns[0]] or "", row[columns[1]]
        if not index.isdecimal() or len(index) > MAX_DIGITS:
            raise UserError(
                f"The vocabulary {path} must have a class id in column {columns[0]}; got "
                f"{index[:80]!r} in line {rows.line_num}."
            )
        if name and int(index) < len(names):
            names[int(index)] = name
    return names
