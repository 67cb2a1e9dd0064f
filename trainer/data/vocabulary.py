"""Names of the classes, from a vocabulary file."""

import csv
import io

from trainer.common import storage
from trainer.common.errors import UserError

# How the published vocabularies head the columns of class id and name:
# YouTube-8M 2018, YouTube-8M 2017, AudioSet.
COLUMNS = (("Index", "Name"), ("label_id", "label_name"), ("index", "display_name"))


def read_names(path: str, num_classes: int) -> list[str]:
    """The name of each class, by class id; "class 12" where the vocabulary has none.

    Args:
        path: a CSV file with one of the `COLUMNS` pairs, its rows in any order; "": no vocabulary.
        num_classes: how many names to return.

    Raises:
        UserError: the file is missing, is no such CSV, or has a class id that is no number.
    """
    names = [f"class {i}" for i in range(num_classes)]
    if not path:
        return names
    rows = csv.DictReader(io.StringIO(storage.read_text(path).removeprefix("\ufeff")))
    columns = next((c for c in COLUMNS if set(c) <= set(rows.fieldnames or ())), None)
    if columns is None:
        expected = " or ".join(f"{index},{name}" for index, name in COLUMNS)
        raise UserError(
            f"The vocabulary {path} must have the columns {expected}; got {rows.fieldnames}."
        )
    for row in rows:
        index, name = row[columns[0]] or "", row[columns[1]]
        if not index.isdecimal():
            raise UserError(
                f"The vocabulary {path} must have a class id in column {columns[0]}; got "
                f"{index!r} in line {rows.line_num}."
            )
        if name and int(index) < num_classes:
            names[int(index)] = name
    return names
