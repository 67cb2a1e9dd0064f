"""Analyses of predictions, by hand."""

import numpy as np
import pytest

from trainer.evaluation import analysis


def test_calibration_by_hand(evaluation_of):
    evaluation = evaluation_of([[0.9, 0.4], [0.8, 0.1]], [[0], [1]])
    # Lower half: 0.1 (hit) and 0.4; upper half: 0.8 and 0.9 (hit).
    found = analysis.calibration(evaluation.predictions, num_bins=2)
    assert found.mean_scores == pytest.approx([0.25, 0.85])
    assert found.precisions.tolist() == [0.5, 0.5]
    assert found.counts.tolist() == [2, 2]
    assert found.expected_calibration_error == pytest.approx((0.25 + 0.35) / 2)


def test_calibration_of_frequencies_is_exact(evaluation_of):
    labels = [[0]] * 3 + [[]]  # class 0 in 3 of 4 videos
    evaluation = evaluation_of(np.full([4, 1], 0.75), labels)
    assert analysis.calibration(evaluation.predictions, 1).expected_calibration_error == 0


def test_fewer_predictions_than_bins(evaluation_of):
    found = analysis.calibration(evaluation_of([[0.5]], [[0]]).predictions)
    assert (found.counts.tolist(), found.precisions.tolist()) == ([1], [1.0])


def test_precision_recall_by_hand(evaluation_of):
    # Ranked: 0.9 hit, 0.8 miss, 0.3 hit, 0.1 miss.
    evaluation = evaluation_of([[0.9, 0.1], [0.3, 0.8]], [[0], [0]])
    recall, precision = analysis.precision_recall(evaluation.predictions, evaluation.videos)
    assert recall.tolist() == [0.5, 1.0]
    assert precision == pytest.approx([1.0, 2 / 3])


def test_no_hits(evaluation_of):
    evaluation = evaluation_of([[0.9]], [[]])
    recall, precision = analysis.precision_recall(evaluation.predictions, evaluation.videos)
    assert len(recall) == len(precision) == 0
    assert analysis.confusions(evaluation.predictions, evaluation.videos) == []


def test_confusions_by_hand(evaluation_of):
    scores = [[0.9, 0.1, 0], [0.9, 0.2, 0], [0.1, 0.9, 0], [0.2, 0.1, 0.9]]
    evaluation = evaluation_of(scores, [[1], [1, 2], [1], [0]])
    found = analysis.confusions(evaluation.predictions, evaluation.videos)
    assert [(c.label, c.predicted, c.num_videos) for c in found] == [
        (1, 0, 2),
        (0, 2, 1),
        (2, 0, 1),
    ]
    assert found[0].fraction == pytest.approx(2 / 3)


def test_largest_losses(evaluation_of):
    scores = [[0.9, 0.1], [0.2, 0.8], [0.5, 0.6]]
    evaluation = evaluation_of(
        scores, [[0], [], [0, 1]], ids=[b"a", b"b", b"c"], losses=[1.0, 3.0, 2.0]
    )
    first, second = analysis.largest_losses(
        evaluation.predictions, evaluation.videos, num_listed=2, num_predictions=1
    )
    assert (first.id, first.loss, first.labels) == ("b", 3.0, [])
    assert (second.id, second.labels) == ("c", [0, 1])
    assert first.predictions == [(1, pytest.approx(0.8))]
