"""The table of flags and their tests in docs/training.md is complete and true."""

import re
from dataclasses import fields

from pipeline.paths import ROOT
from trainer.config import GeneralFlags


def test_every_general_flag_names_a_test_that_exists():
    page = (ROOT / "docs/training.md").read_text()
    rows = re.findall(r"^\| (\w+) \| `(test_\w+)` \|$", page, re.MULTILINE)
    assert [flag for flag, _ in rows if flag not in {f.name for f in fields(GeneralFlags)}] == []
    assert {field.name for field in fields(GeneralFlags)} == {flag for flag, _ in rows}
    sources = "".join(path.read_text() for path in (ROOT / "tests/trainer").rglob("test_*.py"))
    assert [name for _, name in rows if f"def {name}(" not in sources] == []
