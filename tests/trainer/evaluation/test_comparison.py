"""Paired comparison of two evaluations, and slices."""

import numpy as np
import pytest

from trainer.common.errors import UserError
from trainer.evaluation import slices
from trainer.evaluation.comparison import compare


@pytest.fixture(scope="module")
def pair(evaluation_of):
    """Evaluations of a model and of one that is a little better, on 300 videos."""
    rng = np.random.default_rng(0)
    labels = [[int(i)] for i in rng.integers(0, 5, 300)]
    truth = np.eye(5)[[row[0] for row in labels]]
    noise = rng.random([300, 5])
    return evaluation_of(0.6 * truth + noise, labels), evaluation_of(0.5 * truth + noise, labels)


def test_values_are_the_exact_metrics(pair):
    metrics, found = compare(*pair, num_replicates=20)
    assert found == []
    for name, result in metrics.items():
        better, worse = (evaluation.metrics[name] for evaluation in pair)
        assert (result.challenger.value, result.champion.value) == (better, worse)
        assert result.difference.value == better - worse
        assert result.challenger.low < better < result.challenger.high


def test_pairing_removes_what_both_models_share(pair):
    gap = compare(*pair, num_replicates=200)[0]["gap"]
    unpaired = np.hypot(gap.challenger.standard_error, gap.champion.standard_error)
    assert gap.difference.standard_error < 0.3 * unpaired
    assert gap.difference.p_value < 0.001


def test_a_model_does_not_differ_from_itself(pair):
    metrics, _ = compare(pair[0], pair[0], num_replicates=20)
    for result in metrics.values():
        assert (result.difference.value, result.difference.standard_error) == (0, 0)
        assert result.difference.p_value == 1


def test_without_a_champion_there_is_no_difference(pair):
    metrics, _ = compare(pair[0], num_replicates=20)
    assert metrics["gap"].champion is metrics["gap"].difference is None
    assert metrics["gap"].challenger == compare(*pair, num_replicates=20)[0]["gap"].challenger


def test_slices_of_videos_by_hand(evaluation_of):
    scores = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]
    evaluation = evaluation_of(scores, [[0], [1], [0, 1]], num_frames=[10, 300, 59])
    by_labels = slices.by_num_labels(evaluation.videos)
    by_frames = slices.by_num_frames(evaluation.videos)
    _, found = compare(evaluation, slicings=[by_labels, by_frames], num_replicates=5)
    rows = {(row.slicing, row.slice): row for row in found}
    one = rows["Labels of the video", "1"]
    # Videos 0 and 1: 0.9 is a hit, 0.8 is not, 0.2 is a hit, 0.1 is not.
    assert one.gap.challenger.value == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert (one.num_videos, one.num_positives) == (2, 2)
    assert rows["Labels of the video", "2"].gap.challenger.value == 1.0
    assert rows["Frames of the video", "300+"].gap.challenger.value == pytest.approx(1 / 2)
    assert rows["Frames of the video", "1\N{EN DASH}59"].num_videos == 2
    assert ("Labels of the video", "0") not in rows  # no positives: no GAP


def test_slices_of_classes_by_hand(evaluation_of):
    scores = [[0.9, 0.1, 0.5], [0.8, 0.2, 0.4], [0.3, 0.7, 0.6]]
    evaluation = evaluation_of(scores, [[0], [1], [0, 1]])
    slicing = slices.by_class_frequency(np.array([3, 100, 0]))
    _, found = compare(evaluation, slicings=[slicing], num_replicates=5)
    rows = {row.slice: row for row in found}
    # Class 0: hit, miss, hit. Class 1: 0.7 is a hit, 0.2 is a hit. Class 2 has no positives.
    assert rows["1\N{EN DASH}4"].gap.challenger.value == pytest.approx((1 + 2 / 3) / 2)
    assert rows["100+"].gap.challenger.value == 1.0
    assert set(rows) == {"1\N{EN DASH}4", "100+"}
    assert (rows["100+"].num_videos, rows["100+"].num_positives) == (2, 2)


def test_number_of_videos_of_class_slices_counts_a_video_once(evaluation_of):
    evaluation = evaluation_of(np.full([3, 3], 0.5), [[0, 1], [1], [2]])
    slicing = slices.Slicing("", ["a", "b"], classes=np.array([0, 0, 1]))
    assert slicing.num_videos(evaluation.videos).tolist() == [2, 1]


def test_video_level_data_has_no_slices_by_frames(evaluation_of):
    assert slices.by_num_frames(evaluation_of([[0.5]], [[0]]).videos) is None


def test_verticals_of_a_vocabulary(tmp_path):
    path = tmp_path / "vocabulary.csv"
    path.write_text("Index,Name,Vertical1\n0,Game,Games\n2,Car,Autos\n1,Thing,\n9,Other,Food\n")
    slicing = slices.by_vertical(str(path), 4)
    assert slicing.slices == ["Autos", "Games"]
    assert slicing.classes.tolist() == [1, -1, 0, -1]
    path.write_text("label_id,label_name\n0,Games\n")
    assert slices.by_vertical(str(path), 4) is slices.by_vertical("", 4) is None


def test_slice_file(evaluation_of, tmp_path):
    videos = evaluation_of(np.full([3, 1], 0.5), [[0]] * 3, ids=[b"a", b"b", b"c"]).videos
    path = tmp_path / "slices.csv"
    path.write_text("id,slice\na,new\nc,old\nnone,other\na,new\n")
    slicing = slices.by_file(str(path), videos)
    assert slicing.slices == ["new", "old", "other"]
    assert slicing.videos.tolist() == [0, -1, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("video,slice\na,1\n", r"must have the columns id,slice; got \['video', 'slice'\]"),
        ("id,slice\na,x\na,y\n", r"'a' has 'x' and 'y' \(line 3\)"),
        ("id,slice\nz,x\n", "none of its 1 ids is among them"),
    ],
)
def test_slice_file_errors(evaluation_of, tmp_path, text, message):
    path = tmp_path / "slices.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        slices.by_file(str(path), evaluation_of([[0.5]], [[0]], ids=[b"a"]).videos)
