"""Bootstrap: replicates equal the exact metrics of repeated videos, and cover the true value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation import bootstrap, comparison
from trainer.evaluation.bootstrap import RankedLists, estimate, p_value, replicate
from trainer.evaluation.slices import all_videos, by_class


def test_weighted_average_precision_by_hand(evaluation_of):
    # One class: hits at 0.9 (video 0) and 0.7 (video 2), a miss at 0.8 (video 1).
    evaluation = evaluation_of([[0.9], [0.8], [0.7]], [[0], [], [0]])
    slicing = all_videos(evaluation.videos)
    lists = comparison._ranked_lists(evaluation, slicing)

    def of(*weights):
        return lists.average_precision(np.array(weights, np.uint8))[0]

    assert of(1, 1, 1) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert of(1, 2, 1) == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert of(2, 1, 1) == pytest.approx((1 / 1 + 2 / 2 + 3 / 4) / 3)
    assert of(0, 1, 2) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert of(1, 1, 0) == 1.0
    assert np.isnan(of(0, 3, 0))  # no positives


@st.composite
def weighted_videos(draw):
    """Distinct scores [videos, classes], labels and weights."""
    num_videos, num_classes = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    ranks = draw(st.permutations(range(num_videos * num_classes)))
    scores = (np.array(ranks).reshape(num_videos, num_classes) + 1) / 100
    labels = [draw(st.sets(st.integers(0, num_classes - 1))) for _ in range(num_videos)]
    weights = [draw(st.integers(0, 3)) for _ in range(num_videos)]
    return scores, [sorted(row) for row in labels], np.array(weights, np.uint8)


@settings(max_examples=200, deadline=None)
@given(data=weighted_videos())
def test_weights_equal_repeated_videos(evaluation_of, data):
    scores, labels, weights = data
    repeated = np.repeat(np.arange(len(scores)), weights)
    statistics = comparison._statistics(evaluation_of(scores, labels), [])(weights)
    if not len(repeated):
        assert np.isnan(statistics).all()
        return
    expected = evaluation_of(scores[repeated], [labels[i] for i in repeated])
    values = [expected.metrics[name] for name in comparison.METRIC_NAMES]
    if not expected.num_positives.any():
        values[:2] = [np.nan, np.nan]  # no list has positives
    assert statistics == pytest.approx(values, nan_ok=True)
    precisions = comparison._ranked_lists(
        evaluation_of(scores, labels), by_class(scores.shape[1])
    ).average_precision(weights)
    assert precisions == pytest.approx(expected.average_precision, nan_ok=True)


def test_replicates_depend_on_the_seed_alone():
    def statistics(weights):
        return np.array([weights.sum(), weights[0]])

    first, again = replicate(statistics, 50, 20, seed=3), replicate(statistics, 50, 20, seed=3)
    assert np.array_equal(first, again)
    assert first.shape == (20, 2)
    assert not np.array_equal(first, replicate(statistics, 50, 20, seed=4))
    assert first[:, 0].mean() == pytest.approx(50, abs=5)


def test_estimate_by_hand():
    found = estimate(0.5, np.array([0.4, 0.5, 0.6, np.nan]), confidence=0.95)
    assert found.standard_error == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.195996, 0.5 + 0.195996), abs=1e-5)
    assert found.p_value == pytest.approx(5.7e-7, rel=0.01)  # five standard errors
    assert p_value(1.959964, 1) == pytest.approx(0.05, abs=1e-6)
    assert (p_value(0, 0), p_value(0.1, 0)) == (1.0, 0.0)


@pytest.mark.slow
def test_standard_error_of_a_mean():
    # Of 400 videos, 100 are hits: the standard error of the fraction is sqrt(p (1 - p) / n).
    values = np.r_[np.ones(100), np.zeros(300)]
    mean = bootstrap.VideoMean(values)
    replicates = replicate(lambda weights: np.array([mean(weights)]), 400, 2000)[:, 0]
    assert np.std(replicates) == pytest.approx(np.sqrt(0.25 * 0.75 / 400), rel=0.06)
    assert np.mean(replicates) == pytest.approx(0.25, abs=0.003)


def test_equal_scores_keep_the_order_of_videos(evaluation_of):
    evaluation = evaluation_of([[0.5], [0.5], [0.5]], [[], [0], [0]])
    lists = comparison._ranked_lists(evaluation, all_videos(evaluation.videos))
    ones = np.ones(3, np.uint8)
    assert lists.average_precision(ones)[0] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_lists_of_negative_scores_are_ranked(evaluation_of):
    evaluation = evaluation_of([[-1.0], [2.0], [-0.5]], [[], [0], [0]])
    lists = comparison._ranked_lists(evaluation, all_videos(evaluation.videos))
    assert lists.average_precision(np.ones(3, np.uint8))[0] == 1.0


def test_predictions_in_no_list_are_left_out(evaluation_of):
    evaluation = evaluation_of([[0.9, 0.8], [0.7, 0.6]], [[1], [0]])
    lists = np.array([[-1, 0], [-1, 0]])
    labels = np.array([0, -1])
    ranked = RankedLists(evaluation.predictions, evaluation.videos, lists, labels, 1)
    assert ranked.average_precision(np.array([1, 1], np.uint8)) == pytest.approx([1.0])
