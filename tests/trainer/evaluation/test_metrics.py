"""Metrics: values worked by hand, the definition, and invariances."""

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation import metrics as metrics_module
from trainer.evaluation.metrics import (
    METRICS,
    AveragePrecision,
    MetricCollection,
    TopPredictions,
    VideoCounts,
    average_precision,
    top_predictions,
)


def measure(metric, predictions, labels, top_k=20, batch_size=None):
    """Add dense predictions [videos, num_classes] and lists of labels to a metric; return it."""
    predictions = np.asarray(predictions, np.float32)
    num_classes = predictions.shape[1]
    width = max(map(len, labels), default=0)
    padded = np.array([sorted(set(row)) + [-1] * (width - len(set(row))) for row in labels])
    padded = padded.reshape(len(labels), width).astype(np.int32)
    for start in range(0, len(labels), batch_size or len(labels)):
        rows = slice(start, start + (batch_size or len(labels)))
        order = np.argsort(-predictions[rows], axis=1, kind="stable")
        scores = np.take_along_axis(predictions[rows], order, 1)
        metric.add(TopPredictions(scores, order, padded[rows], num_classes, top_k))
    return metric


def result_of(name, predictions, labels, top_k=20):
    """The result of the metric called `name` in METRICS."""
    metric = METRICS[name].metric_class(len(predictions[0]))
    return measure(metric, predictions, labels, top_k).result()


def test_examples_in_docstrings():
    tested = doctest.testmod(metrics_module)
    assert tested.attempted > 0 and tested.failed == 0


@pytest.mark.parametrize(
    "predictions, labels, hit_at_1, perr",
    [
        ([[0.9, 0.1, 0.8]], [[0, 2]], 1.0, 1.0),  # both labels on top
        ([[0.9, 0.8, 0.1]], [[0, 2]], 1.0, 0.5),  # one of the top two is a label
        ([[0.1, 0.8, 0.9]], [[0]], 0.0, 0.0),  # none
        ([[0.9, 0.8, 0.1]], [[]], 0.0, 0.0),  # a video without labels counts as 0
        ([[0.9, 0.1], [0.9, 0.1]], [[0], [1]], 0.5, 0.5),  # the mean over videos
        ([[0.5, 0.5]], [[1]], 0.0, 0.0),  # on a tie, the lower class comes first
        ([[0.5, 0.5]], [[0]], 1.0, 1.0),
        ([[0.5, 0.0, 0.0]], [[0, 1]], 1.0, 0.5),  # PERR misses a label whose score is 0
    ],
)
def test_hit_at_1_and_perr_by_hand(predictions, labels, hit_at_1, perr):
    assert result_of("hit_at_1", predictions, labels) == pytest.approx(hit_at_1)
    assert result_of("perr", predictions, labels) == pytest.approx(perr)


def test_gap_by_hand():
    # The list: 0.9 hit, 0.8 miss, 0.7 hit, 0.1 miss: (1/1 + 2/3) / 2.
    gap = result_of("gap", [[0.9, 0.8], [0.7, 0.1]], [[0], [0]])
    assert gap == pytest.approx((1 + 2 / 3) / 2)


def test_gap_counts_labels_outside_the_top_k():
    # Two labels, of which top_k = 1 can find only one.
    assert result_of("gap", [[0.9, 0.8, 0.1]], [[0, 1]], top_k=1) == pytest.approx(0.5)


def test_map_is_over_classes_with_videos():
    # Class 0: 0.9 hit, 0.7 hit -> 1; class 1: 0.8 miss, 0.1 hit -> 1/2; class 2: no video.
    videos = [[0.9, 0.8, 0.0], [0.7, 0.1, 0.0]], [[0], [0, 1]]
    assert result_of("map", *videos) == pytest.approx(0.75)
    per_class = measure(AveragePrecision(3), *videos).result()
    np.testing.assert_allclose(per_class, [1, 0.5, np.nan])


def test_map_of_a_class_outside_every_top_k_is_0():
    assert result_of("map", [[0.9, 0.1]], [[1]], top_k=1) == 0


def test_counts_by_hand():
    counts = measure(VideoCounts(3), [[0.9, 0.8, 0.1]] * 3, [[0], [], [0, 2]])
    assert counts.num_positives.tolist() == [2, 0, 1]
    assert counts.result() == {
        "num_videos": 3,
        "num_videos_without_labels": 1,
        "num_classes_with_videos": 2,
    }


def test_no_videos_give_zeros():
    assert set(MetricCollection(5).result().values()) == {0}
    assert set(VideoCounts(5).result().values()) == {0}


def test_too_few_predictions_are_an_error():
    scores, classes, labels = np.zeros((1, 2)), np.zeros((1, 2)), np.array([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"\[batch, 3\] or wider; got \(1, 2\)"):
        TopPredictions(scores, classes, labels, num_classes=5, top_k=1)


def test_top_predictions_are_ordered_by_score_and_then_by_class():
    batch = top_predictions([[0.2, 0.7, 0.2, 0.7]], [[3, -1]], top_k=3)
    assert batch.classes.tolist() == [[1, 3, 0]]
    assert batch.scores.tolist() == np.float32([[0.7, 0.7, 0.2]]).tolist()
    assert batch.hits.tolist() == [[False, True, False]]


def test_top_predictions_are_as_many_as_the_labels():
    assert top_predictions([[0.1, 0.2, 0.3]], [[0, 1]], top_k=1).scores.shape == (1, 2)
    assert top_predictions([[0.1, 0.2]], [[0, 1, -1]], top_k=5).scores.shape == (1, 2)


def average_precision_in_order(hits, num_positives):
    """The definition, prediction by prediction."""
    found, total = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            found += 1
            total += found / rank
    return total / num_positives


def test_ties_are_the_mean_over_their_orders():
    # 0.9 hit; three with equal scores, two of them hits; 0.1 hit.
    tied = [True, True, False]
    expected = np.mean(
        [
            average_precision_in_order([True, *order, True], 4)
            for order in itertools.permutations(tied)
        ]
    )
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    hits = np.array([True, *tied, True])
    found = average_precision(scores, hits, np.zeros(5, int), np.array([4]))
    assert found[0] == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1000), st.booleans()), max_size=40))
def test_average_precision_equals_the_definition(pairs):
    pairs = list({score: (name, score, hit) for name, score, hit in pairs}.values())  # no ties
    names = np.array([p[0] for p in pairs], int)
    scores = np.array([p[1] for p in pairs], float)
    hits = np.array([p[2] for p in pairs], bool)
    positives = np.bincount(names[hits], minlength=3) + 1  # one of them has no prediction
    found = average_precision(scores, hits, names, positives)
    for name in range(3):
        ranked = sorted((p for p in pairs if p[0] == name), key=lambda p: -p[1])
        expected = average_precision_in_order([p[2] for p in ranked], positives[name])
        assert found[name] == pytest.approx(expected)


@st.composite
def scored_videos(draw):
    num_classes = draw(st.integers(1, 8))
    videos = draw(st.integers(1, 12))
    # Few distinct scores, so that ties are common.
    scores = st.integers(0, 4).map(lambda n: n / 4)
    predictions = [[draw(scores) for _ in range(num_classes)] for _ in range(videos)]
    labels = [draw(st.sets(st.integers(0, num_classes - 1))) for _ in range(videos)]
    return np.array(predictions), [sorted(row) for row in labels]


@settings(max_examples=50)
@given(scored_videos(), st.integers(1, 5), st.integers(1, 5), st.randoms())
def test_results_do_not_depend_on_batches_or_order(videos, top_k, batch_size, random):
    predictions, labels = videos
    num_classes = predictions.shape[1]
    whole = measure(MetricCollection(num_classes), predictions, labels, top_k).result()
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = measure(
        MetricCollection(num_classes),
        predictions[order],
        [labels[i] for i in order],
        top_k,
        batch_size,
    )
    assert shuffled.result() == pytest.approx(whole, abs=1e-12)


@settings(max_examples=50)
@given(scored_videos(), scored_videos())
def test_merging_equals_adding(first, second):
    num_classes = min(first[0].shape[1], second[0].shape[1])
    videos = [
        (p[:, :num_classes], [[c for c in row if c < num_classes] for row in labels])
        for p, labels in (first, second)
    ]
    both = np.concatenate([videos[0][0], videos[1][0]]), videos[0][1] + videos[1][1]
    for new in (MetricCollection, VideoCounts):
        merged = measure(new(num_classes), *videos[0], top_k=3)
        merged.merge(measure(new(num_classes), *videos[1], top_k=3))
        together = measure(new(num_classes), *both, top_k=3)
        assert merged.result() == pytest.approx(together.result(), abs=1e-12)
