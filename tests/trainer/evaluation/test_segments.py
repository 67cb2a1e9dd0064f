"""Segments: the challenge's format, and mAP@K by hand."""

import numpy as np
import pytest

from trainer import evaluate_segments
from trainer.common.errors import UserError
from trainer.data.examples import encode_sequence_example
from trainer.data.tfrecord import write_records
from trainer.evaluation.segments import (
    SegmentRanking,
    mean_average_precision,
    predict_segments,
    read_class_ids,
    read_ratings,
)
from trainer.training.loop import train


def test_ranking_keeps_the_top_segments_of_each_class():
    ranking = SegmentRanking(np.array([3, 7]), top_k=2)
    for i, scores in enumerate([[0.1, 0.9], [0.5, 0.2], [0.3, 0.8], [0.9, 0.1], [0.4, 0.7]]):
        ranking.add(np.array([b"v:%d" % (5 * i)]), np.array([scores], np.float32))
    assert list(ranking.lines()) == ["Class,Segments\n", "3,v:15 v:5\n", "7,v:0 v:10\n"]


@pytest.fixture
def submission(tmp_path):
    """submission(text): the path of a file with this text."""

    def write(text):
        (tmp_path / "submission.csv").write_text(text)
        return str(tmp_path / "submission.csv")

    return write


def test_mean_average_precision_by_hand(submission):
    path = submission("Class,Segments\n3,a:0 b:0 a:5 b:5\n7,a:0 b:0\n9,a:0\n")
    ratings = {
        3: {"a:0": False, "a:5": True, "b:5": True},  # b:0 is not rated: 1/2, 2/3
        7: {"b:0": True, "c:0": True},  # c:0 is missing: 1/1
        5: {"a:0": True},  # no line: 0
        8: {"a:0": False},  # no positives: left out
    }
    expected = ((1 / 2 + 2 / 3) / 2 + 1 / 2 + 0) / 3
    assert mean_average_precision(path, ratings) == pytest.approx(expected)
    # The first three of class 3: b:5 is beyond.
    expected = ((1 / 2) / 2 + 1 / 2 + 0) / 3
    assert mean_average_precision(path, ratings, top_k=3) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text, message",
    [
        ("3,a:0\n", "must start with the line 'Class,Segments'"),
        ("Class,Segments\nthree,a:0\n", "line 2: expected CLASS,SEGMENT"),
    ],
)
def test_submission_errors(submission, text, message):
    with pytest.raises(UserError, match=message):
        mean_average_precision(submission(text), {3: {"a:0": True}})
    with pytest.raises(UserError, match="mAP needs positives"):
        mean_average_precision(submission("Class,Segments\n"), {3: {"a:0": False}})


def test_class_ids(tmp_path):
    (tmp_path / "ids.csv").write_text("Index\n7\n3\n")
    assert read_class_ids(f"{tmp_path}/ids.csv").tolist() == [3, 7]
    (tmp_path / "ids.csv").write_text("Id\n7\n")
    with pytest.raises(UserError, match="must have a column Index"):
        read_class_ids(f"{tmp_path}/ids.csv")


@pytest.fixture
def rated_videos(tmp_path) -> str:
    """Two videos, of 12 and 5 frames, with ratings."""
    frames = {"rgb": np.full([12, 3], 200, np.uint8), "audio": np.full([12, 2], 50, np.uint8)}
    context = {
        "id": b"aaaa",
        "labels": np.array([1]),
        "segment_labels": np.array([1, 1, 2]),
        "segment_start_times": np.array([0, 5, 0]),
        "segment_scores": np.array([1.0, 0.0, 1.0], np.float32),
    }
    first = encode_sequence_example(context, frames)
    frames = {name: values[:5] for name, values in frames.items()}
    second = encode_sequence_example({"id": b"bbbb", "labels": np.array([1])}, frames)
    write_records(str(tmp_path / "rated.tfrecord"), [first, second])
    return str(tmp_path / "rated.tfrecord")


def test_ratings_of_records(rated_videos):
    assert read_ratings(rated_videos) == {
        1: {"aaaa:0": True, "aaaa:5": False},
        2: {"aaaa:0": True},
    }


def test_ratings_of_unequal_number_are_an_error(tmp_path):
    context = {"id": b"a", "segment_labels": np.array([1]), "segment_start_times": np.array([0])}
    path = str(tmp_path / "bad.tfrecord")
    write_records(path, [encode_sequence_example(context, {"rgb": np.zeros([1, 3], np.uint8)})])
    with pytest.raises(UserError, match=r"bad.tfrecord, record 1: .* equal lengths; got \[1, 1, 0"):
        read_ratings(path)


def test_predictions_of_segments(make_config, frame_shards, rated_videos, tmp_path, capsys):
    config = make_config(
        model="FrameLevelLogisticModel",
        frame_features=True,
        train_data_pattern=frame_shards,
        max_steps=2,
    )
    train(config)
    (tmp_path / "ids.csv").write_text("Index\n1\n2\n")
    flags = [f"--train_dir={config.train_dir}", f"--eval_data_pattern={rated_videos}"]
    flags += [f"--segment_label_ids_file={tmp_path}/ids.csv", f"--output_file={tmp_path}/out.csv"]
    evaluate_segments.main(["evaluate_segments", *flags])
    header, *lines = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "Class,Segments"
    assert [line.split(",")[0] for line in lines] == ["1", "2"]
    for line in lines:
        assert sorted(line.split(",")[1].split()) == ["aaaa:0", "aaaa:10", "aaaa:5", "bbbb:0"]
    # All frames are equal, so the scores are too: segments keep their order. AP is 1 and 1.
    output = capsys.readouterr().out
    assert "4 segments" in output and "mAP@100000: 1.0000 of 2 classes" in output


def test_video_level_model_is_an_error(trained, rated_videos, tmp_path):
    with pytest.raises(UserError, match="Segments need a frame-level model"):
        predict_segments(trained, rated_videos, "ids.csv", f"{tmp_path}/out.csv")
