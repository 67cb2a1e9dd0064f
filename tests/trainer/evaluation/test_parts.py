"""An interrupted evaluation resumes after the files that are done, with the same result."""

import dataclasses
from glob import glob

import numpy as np
import pytest

from trainer.common.storage import FileStatus
from trainer.data import input_pipeline
from trainer.evaluation import evaluator, parts
from trainer.evaluation.evaluator import evaluate_pair


@pytest.fixture
def two_files_per_part(monkeypatch):
    monkeypatch.setattr(evaluator, "FILES_PER_PART", 2)  # of 5 files


def test_resumes_after_the_files_that_are_done(
    trained, save_logistic_model, video_shards, tmp_path, monkeypatch, two_files_per_part
):
    pair, folder = (
        (trained, save_logistic_model([0.9, 0.8, 0.7, 0.6, 0.5])),
        str(tmp_path / "parts"),
    )
    expected = evaluate_pair(*pair, video_shards, batch_size=7)

    read, batches = [], input_pipeline.batches_in_formats

    def interrupted(files, *args):
        if len(read) == 2:
            raise InterruptedError
        read.append(files)
        return batches(files, *args)

    monkeypatch.setattr(input_pipeline, "batches_in_formats", interrupted)
    with pytest.raises(InterruptedError):
        evaluate_pair(*pair, video_shards, batch_size=7, parts_dir=folder)
    assert len(glob(f"{folder}/*.npz")) == 2

    read.clear()
    got = evaluate_pair(*pair, video_shards, batch_size=7, parts_dir=folder)
    assert [len(files) for files in read] == [1]  # the last of 5 files
    for resumed, whole in zip(got, expected, strict=True):
        assert resumed.metrics == whole.metrics
        assert np.array_equal(resumed.average_precision, whole.average_precision, equal_nan=True)
        for name in ("videos", "predictions"):
            _assert_equal(getattr(resumed, name), getattr(whole, name))
    _assert_equal(got[0].experts.all_videos, expected[0].experts.all_videos)
    _assert_equal(got[0].experts.positives, expected[0].experts.positives)


def _assert_equal(one, other):
    for field in dataclasses.fields(one):
        got, expected = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(got, expected, err_msg=field.name)


def test_parts_of_another_model_or_other_files_are_not_used(tmp_path):
    before, after = FileStatus(10, 1), FileStatus(10, 2)
    key = parts.key({"a": before}, ["model", 7])
    assert key == parts.key({"a": before}, ["model", 7])
    assert key != parts.key({"a": before}, ["model", 8])
    assert key != parts.key({"a": after}, ["model", 7])
    assert key != parts.key({"a": before, "b": before}, ["model", 7])
    assert parts.read(str(tmp_path), key) is None
