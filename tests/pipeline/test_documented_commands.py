"""The commands in docs/ and in CI use targets, profiles, flags and parameters that exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline import package
from pipeline.compile import CompileConfig
from pipeline.doctor import DoctorConfig
from pipeline.paths import ROOT
from pipeline.profiles import profile
from pipeline.run import known_parameters
from pipeline.schedule import ScheduleConfig
from pipeline.submit import SubmitConfig

CONFIGS = {
    "compile": CompileConfig,
    "submit": SubmitConfig,
    "schedule": ScheduleConfig,
    "doctor": DoctorConfig,
}
FILES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    ROOT / ".gitlab-ci.yml",
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(file: Path) -> list[tuple[str, str]]:
    """(Target, the rest) of each `make`, with the variables of the shell that it uses."""
    text = re.sub(r"\\\n\s*|\n\s+ARGS=", " ", file.read_text())
    what = re.search(r'WHAT="(.*?)"', text)
    text = text.replace("$WHAT", what[1]) if what else text
    return re.findall(r"\bmake ([a-z-]+)([^\n`&#]*)", text)


@pytest.fixture(scope="module")
def parameters_of(compiled) -> dict[str, dict]:
    """Pipeline -> its parameters by name."""
    train = package.read(str(compiled["kubeflow"])).parameters
    return {"train": train, "predict": known_parameters("predict")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_documented_commands_exist(file, parameters_of):
    for target, rest in commands(file):
        assert target in TARGETS, target
        for name in re.findall(r"PROFILE=([a-z0-9-]+)(?:\s|$)", rest):
            assert name in profile.names()
        if target not in CONFIGS:
            continue
        known = {field.name for field in fields(CONFIGS[target])}
        for name in re.findall(r"(?<!=)--([a-z_-]+)", rest):
            assert name.removeprefix("no-").replace("-", "_") in known, f"--{name}"
        parameters = parameters_of["predict" if "PIPELINE=predict" in rest else "train"]
        for name in re.findall(r"[ '\"]([a-z][a-z_0-9]+)=", rest):
            assert name in parameters, name


def test_documented_selections_of_the_cluster_tests_exist():
    files = sorted((ROOT / "tests" / "cluster").glob("test_*.py"))
    names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())]
    names += [file.stem for file in files]
    words = re.findall(r"test-cluster ARGS='-k (\w+)'", (ROOT / "docs/clusters.md").read_text())
    assert len(words) > 5
    assert [word for word in words if not any(word in name for name in names)] == []


def test_ci_compiles_and_submits():
    for file in (".github/workflows/train.yml", ".gitlab-ci.yml"):
        called = [target for target, _ in commands(ROOT / file)]
        position = called.index("compile")
        assert called[position : position + 2] == ["compile", "submit"]
        assert "make compile && make submit" in (ROOT / file).read_text()
