"""Follows docs/extending.md to the letter, in a copy of the packages."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from pipeline.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (Add .*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))

# "Create `FILE`:", "Append to `FILE`:" or "In `FILE`, DO `PLACE`:", and the code.
CHANGE = re.compile(
    r"^(?:Create|Append to|In) `([^`]*)`(?:, ([a-z ]+?))?(?: `([^`]*)`)?:\n\n```python\n(.*?)```",
    re.MULTILINE | re.DOTALL,
)
SHELL = re.compile(r"^```sh\n(.*?)```", re.MULTILINE | re.DOTALL)


def changed(text: str, what: str, place: str, code: str) -> str:
    """Return the text of a file after a change of the page."""
    if what == "import it":
        return text.replace("import numpy as np\n", f"import numpy as np\n\n{code}", 1)
    if what == "add to":
        return text.replace(f"\n{place} = {{\n", f"\n{place} = {{\n{code}", 1)
    if what == "before":
        line = re.search(rf"^( *){re.escape(place)}", text, re.MULTILINE)
        return f"{text[: line.start()]}{indent(code, line[1])}\n{text[line.start() :]}"
    return f"{text}\n\n{code}" if text else code


def follow(section: str, root: Path) -> tuple[int, int, int]:
    """Make the changes that a section asks for.

    Returns:
        The numbers of new files, changed files and added lines, without blank ones.
    """
    new, old, num_lines = set(), set(), 0
    for path, what, place, code in CHANGE.findall(section):
        file = root / path
        before = file.read_text() if file.exists() else ""
        after = changed(before, what, place, code)
        assert after != before, f"Found no {place!r} in {path}."
        (old if before else new).add(path)
        file.write_text(after)
        num_lines += sum(bool(line.strip()) for line in code.splitlines())
    return len(new), len(old), num_lines


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the packages with every example of the page in it, and the page's data set."""
    root = tmp_path_factory.mktemp("copy")
    for package in ("trainer", "components", "pipeline"):
        shutil.copytree(
            ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / file, root)
    for text in SECTIONS.values():
        follow(text, root)
    run(SHELL.search(PAGE)[1], root)
    return root


def run(commands: str, root: Path) -> str:
    """Run the commands of a block; return what they print."""
    output = ""
    for command in commands.strip().splitlines():
        words = command.replace("python", sys.executable, 1).split()
        ran = subprocess.run(
            words,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout
        output += ran.stdout
    return output


def test_the_page_counts_files_and_lines(tmp_path):
    rows = re.findall(r"^\| \[(.*?)\]\(.*?\) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    counted = {}
    for title, text in SECTIONS.items():
        for package in ("trainer", "components", "pipeline"):
            shutil.copytree(ROOT / package, tmp_path / title / package)
        counted[title.removeprefix("Add ")] = follow(text, tmp_path / title)
    assert {name: tuple(map(int, numbers)) for name, *numbers in rows} == counted


@pytest.mark.slow
@pytest.mark.parametrize(
    "title, expected",
    [
        ("Add a model", r"ResidualMlpModel.*GAP"),
        ("Add a loss", r"Finished training"),
        ("Add an optimizer", r"Finished training"),
        ("Add a pipeline step", r"The model has \d+\.\d MB"),
    ],
)
def test_an_example_runs(copy, title, expected):
    output = "".join(run(block, copy) for block in SHELL.findall(SECTIONS[title]))
    assert re.search(expected, output, re.DOTALL), output


@pytest.mark.slow
def test_a_metric_is_evaluated(copy):
    if not (copy / "mlp").exists():
        run(SHELL.findall(SECTIONS["Add a model"])[0], copy)
    assert "Hit@5" in run(SHELL.findall(SECTIONS["Add a metric"])[0], copy)
