"""The benchmarks run, on little data. What they measure is for whoever reads it."""

import re

import pytest

from benchmarks import data, evaluation, reading, step
from benchmarks.reading import ReadingBenchmark
from benchmarks.step import StepBenchmark
from trainer.common.errors import UserError


@pytest.fixture
def little_data(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    monkeypatch.setattr(data, "NUM_VIDEOS", 80)
    monkeypatch.setattr(data, "NUM_FRAME_LEVEL_VIDEOS", 20)


@pytest.mark.slow
@pytest.mark.parametrize("frame_features", [False, True])
def test_reading(little_data, frame_features):
    line = reading.measure(frame_features, batch_size=8, config=ReadingBenchmark(rounds=1))
    assert re.fullmatch(r"(video|frame) level( +[\d,]+){4}( +[\d.]+%){4}", line)


@pytest.mark.slow
def test_step(little_data):
    row = step.measure("LogisticModel", "bfloat16", batch_size=8, seconds=0.1, started=0)
    assert list(row) == list(step.COLUMNS)
    assert all(row.values())


def test_an_unknown_model_is_an_error():
    with pytest.raises(UserError, match=r"LogisticModel, MoeModel.*'MoeModle'"):
        StepBenchmark(models="LogisticModel,MoeModle")
    with pytest.raises(UserError, match="float32, bfloat16; got 'float16'"):
        StepBenchmark(types="float16")


@pytest.mark.slow
def test_evaluation(little_data):
    lines = evaluation.measure("LogisticModel", batch_size=8).splitlines()
    assert lines[0] == "LogisticModel: 64 videos"
    assert [line.split()[0] for line in lines[1:]] == ["forward", "evaluation", "two"]


def test_bootstrap():
    line = evaluation.measure_bootstrap(num_videos=50, replicates=2)
    assert line.startswith("bootstrap of 2 models, 50 videos") and "for 500 replicates" in line
