import subprocess

import pytest

from pipeline import package
from trainer.common.errors import UserError


@pytest.fixture
def file(compiled):
    return str(compiled["kubeflow"])


def test_package_has_steps_images_and_parameters(file):
    read = package.read(file)
    assert read.name == "yt8m-pipeline"
    assert read.steps["validate-data"] == "Validate data"
    assert len(read.steps) == 7  # and no condition, and no exit handler
    assert [image.split(":")[0] for image in read.images] == ["yt8m-data", "yt8m-trainer"]
    assert read.parameters["num_epochs"].default == 5
    assert read.parameters["node_selector"].default == {}
    assert read.parameters["train_data"].default is None


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    command = ["git", *who, *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_version_contains_the_commit_and_whether_files_differ(file, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "ROOT", tmp_path)
    digest = package.read(file).version.rsplit("-", 1)[1]
    assert package.read(file).version == f"nogit-{digest}"
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code").write_text("1")
    git(tmp_path, "add", "code")
    git(tmp_path, "commit", "--quiet", "--message=1")
    git(tmp_path, "tag", "v1", "--message=not a part of the name")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD").strip()
    assert package.read(file).version == f"{commit}-{digest}"
    (tmp_path / "code").write_text("2")
    assert package.read(file).version == f"{commit}-dirty-{digest}"


@pytest.mark.parametrize("text", ["", "a: [", "just words", "pipelineInfo: {name: x}"])
def test_file_that_is_not_a_compiled_pipeline_is_an_error(tmp_path, text):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"is not a compiled pipeline\. `make compile` writes one"):
        package.read(str(file))
