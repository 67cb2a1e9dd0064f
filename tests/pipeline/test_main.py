"""The command line: help, mistakes, completion, output."""

import os
import subprocess
import sys

import pytest

from pipeline.__main__ import main
from pipeline.paths import ROOT


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"]])
def test_help_into_a_closed_pipe_shows_no_traceback(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipeline", *words]
    ran = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


def run(capsys, *words) -> str:
    """Run a command; return what it prints."""
    with pytest.raises(SystemExit) as exit:
        main(list(words))
    assert exit.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(capsys, words):
    out = run(capsys, *words)
    for command in ("run", "compile", "images", "push", "submit", "schedule", "doctor"):
        assert f" {command} " in out


@pytest.mark.parametrize("command", ["submit", "schedule", "doctor"])
@pytest.mark.parametrize("order", [1, -1])
def test_help_leaves_out_the_options_of_another_target(capsys, command, order):
    kubeflow = run(capsys, command, "--help")
    assert "--cookie" in kubeflow
    assert "--labels" not in kubeflow
    vertex = run(capsys, command, *["--target=vertex", "--help"][::order])
    assert "--cookie" not in vertex
    assert "--labels" in vertex


@pytest.mark.parametrize(
    "words, message",
    [
        (["sumbit"], "No such command 'sumbit'. Did you mean 'submit'\\? Try"),
        (["submit", "--hst=x"], "There is no option --hst. Did you mean --host\\? Try"),
        (["submit", "--cron=x"], "No such option. Parameters of the pipeline are given as"),
        (["submit", "--num_epochs=x"], "No such option. Parameters of the pipeline are given as"),
        (
            ["submit", "--timeout=x"],
            "Invalid value for '--timeout': Input should be a valid",
        ),
        (["submit", "--target"], "Option '--target' requires an argument."),
        (["submit", "--region=x"], "--region is an option for Vertex AI; got --target=kubeflow."),
        (["doctor", "--target=vertex", "--host=x"], "--host is an option for Kubeflow; got"),
        (["schedule", "pase"], "The action must be one of set, list, .* Did you mean pause?"),
        (["schedule", "list", "a=b"], "The action list takes no parameters"),
        (["schedule", "--max_concurrency=0"], "--max-concurrency must be 1 to 10; got 0."),
        (["images", "--variant=tpu"], "Invalid value for '--variant': 'tpu' is not one of 'cpu'"),
        (["run", "--runner=podman"], "Invalid value for '--runner': 'podman' is not one of"),
        (["images", "x=y"], "Got unexpected extra argument"),
    ],
)
def test_mistake_on_the_command_line(words, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        main(words)


def test_bug_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr("pipeline.submit.prepare", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as exit:
        main(["submit"])
    assert exit.value.code == 1
    assert capsys.readouterr().err.endswith("ZeroDivisionError: division by zero\n")


def test_shell_completion_of_the_script(tmp_path):
    environment = {**os.environ, "_YT8M_COMPLETE": "complete_bash"}
    words = {"COMP_WORDS": "yt8m submit --ti", "COMP_CWORD": "2"}
    ran = subprocess.run(
        [ROOT / "yt8m"], cwd=tmp_path, env=environment | words, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["--timeout"], ran.stderr
