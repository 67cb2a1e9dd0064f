"""Progress of training: speed, waiting for input, remaining time."""

import logging
import re
import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf

from trainer.data.input_pipeline import Position
from trainer.run_dir.checkpoints import State
from trainer.training import progress
from trainer.training.step import Step


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until its `now` is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


RESULT = {"outputs": [tf.constant([[2.0, -1.5]] * 8)], "learning_rate": 0.01, "gradient_norm": 2.0}


def report(outputs, labels):
    return tf.sigmoid(outputs[0]), tf.constant(1.5), tf.constant(0.25)


@pytest.fixture
def told(make_config, tmp_path, clock, caplog):
    """told(steps, **flags): the log lines of steps, each (seconds it took, seconds it waited).

    Of 8 videos each, in epochs of 80.
    """

    def run(steps, **flags):
        config = make_config(**flags)
        state = State(0, Position(), "", {})
        with (
            caplog.at_level(logging.INFO),
            progress.Progress(config, state, 80, str(tmp_path / "events")) as bar,
        ):
            for step, (seconds, waited) in enumerate(steps, start=1):
                clock.now += seconds
                epoch, number = divmod(step, 10)
                state = State(step, Position(epoch, 8 * number), "", {})
                batch = {"labels": tf.constant([[0, -1]] * 8)}
                bar.add(state, Step(batch, epoch, waited, RESULT), report)
        return [record for record in caplog.records if "training step" in record.getMessage()]

    return run


def test_a_line_comes_with_the_first_step_and_then_every_2_seconds(told):
    lines = told([(5, 0)] + [(0.5, 0)] * 9)
    assert [line.fields["step"] for line in lines] == [1, 5, 9]


def test_a_line_tells_speed_and_waiting_since_the_one_before(told):
    first, second = told([(5, 1)] + [(0.5, 0.125)] * 4)
    assert first.fields["examples_per_sec"] == 8 / 5
    assert first.fields["waiting_for_input"] == 1 / 5
    assert second.fields["examples_per_sec"] == 4 * 8 / 2
    assert second.fields["waiting_for_input"] == 0.25
    assert second.getMessage() == (
        "training step 5 | epoch 1/2 | Loss: 1.50 Examples/sec: 16 | Hit@1: 1.00 PERR: 1.00 "
        "GAP: 1.00 | ETA: 0:07"  # 120 of 160 videos, 16 a second: 7.5 s
    )


def test_how_long_it_takes_is_told_by_epochs_or_steps_whichever_end_sooner(told):
    (_, line) = told([(5, 0), (2, 0)], max_steps=3)
    assert line.getMessage().endswith(" | ETA: 0:02")  # a step of 2 s; the first does not count


def test_nothing_is_told_of_what_is_left_before_it_is_known(told):
    (line,) = told([(5, 0)])
    assert re.search("GAP: 1.00$", line.getMessage())


def test_a_terminal_sees_how_long_it_takes(told, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    told([(5, 0)] + [(2, 0)] * 3)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert re.search(r"training ━.* 20% .*\d:\d\d:\d\d", shown), shown


def test_progress_with_two_replicas_ends_at_100_percent(make_config, tmp_path):
    config = make_config(max_steps=4)
    end = State(4, Position(0, 64), "", {})
    with progress.Progress(config, end, 80, str(tmp_path / "events"), videos_per_step=16) as bar:
        assert bar._total_videos() == bar._done_videos(end) == 64


def test_progress_with_an_unknown_number_of_videos_does_not_restart_each_epoch(
    make_config, tmp_path
):
    config = make_config(max_steps=30)
    with progress.Progress(
        config, State(0, Position(), "", {}), None, str(tmp_path / "events")
    ) as bar:
        states = [State(step, Position(step // 10, step % 10 * 8), "", {}) for step in range(31)]
        done = [bar._done_videos(state) for state in states]
    assert done == sorted(done)
    assert done[-1] == bar._total_videos() == 240
