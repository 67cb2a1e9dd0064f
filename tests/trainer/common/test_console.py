"""What a command writes to the console: its own lines, as text or as JSON, and nothing else."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from datetime import datetime

import pytest

from pipeline.paths import ROOT


@pytest.fixture(scope="module")
def command(tmp_path_factory, video_shards) -> list[str]:
    """A small training run's command line."""
    train_dir = tmp_path_factory.mktemp("console") / "model"
    return [
        *(sys.executable, "-m", "trainer.train", "--max_steps=7", "--batch_size=8"),
        *(f"--train_data_pattern={video_shards}", f"--train_dir={train_dir}"),
        *("--feature_names=rgb,audio", "--feature_sizes=3,2", "--num_classes=5", "--num_epochs=2"),
    ]


@pytest.fixture(scope="module")
def told(command):
    """A run whose lines are JSON, and that tells where its operations run."""
    command = [*command, "--log_format=json", "--log_device_placement", "--start_new_model"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)


@pytest.mark.slow
def test_lines_of_json(told):
    lines = [json.loads(line) for line in told.stderr.splitlines()]
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)
    assert {line["level"] for line in lines} == {"INFO"}
    (step,) = (line for line in lines if line["message"].startswith("training step 7"))
    assert (step["step"], step["epoch"]) == (7, 2)
    names = {"loss", "examples_per_sec", "hit_at_1", "perr", "gap", "learning_rate"}
    names |= {"regularization_loss", "gradient_norm", "waiting_for_input"}
    assert names <= step.keys()
    assert all(isinstance(step[name], float) for name in names)


@pytest.mark.slow
def test_log_device_placement_tells_where_operations_run(told):
    assert "MatMul: (MatMul): /job:localhost" in told.stdout


@pytest.mark.slow
def test_lines_of_text_and_a_bar_on_a_terminal(command):
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        [*command, "--start_new_model"],
        stderr=terminal,
        stdout=terminal,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # when the process has closed its end
            while True:
                shown += os.read(ours, 10_000)
    os.close(ours)
    assert process.returncode == 0
    assert "━".encode() in shown
    assert b"MatMul" not in shown  # where operations run is told on request alone
    step = rb"\d\d:\d\d:\d\d training step 7 \| epoch 2/2 \| Loss: \d+\.\d\d Examples/sec: \d+ \| "
    step += rb"Hit@1: \d\.\d\d PERR: \d\.\d\d GAP: \d\.\d\d"
    for line in (
        rb"Created a new LogisticModel with 30 weights in ",
        step,
        rb"Saved checkpoint for step 7\.",
        rb"Finished training at step 7: ",
    ):
        assert re.search(line, shown), line


def test_a_users_mistake_is_one_line(command):
    command = [*command, "--label_loss=Crossentropy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: --label_loss must be one of ['CrossEntropyLoss', 'HingeLoss', 'SoftmaxLoss']; got "
        "'Crossentropy'."
    ]


@pytest.mark.slow
def test_a_users_mistake_is_json_where_all_lines_are(command):
    command = [*command, "--log_format=json", "--train_data_pattern=/not/there*", "--num_gpu=0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "ERROR"
    assert "/not/there*" in line["message"]
