"""Metrics against numbers worked by hand, against the definition, and against their laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.metrics import VideoMetrics, average_precision


def measured(predictions, labels, top_k=20, batch_size=None):
    """Metrics of dense predictions [videos, classes] and lists of labels."""
    predictions = np.asarray(predictions, np.float32)
    metrics = VideoMetrics(predictions.shape[1], top_k)
    width = max(map(len, labels), default=0)
    padded = np.array([sorted(set(row)) + [-1] * (width - len(set(row))) for row in labels])
    padded = padded.reshape(len(labels), width).astype(np.int32)
    for start in range(0, len(labels), batch_size or len(labels)):
        rows = slice(start, start + (batch_size or len(labels)))
        order = np.argsort(-predictions[rows], axis=1, kind="stable")
        metrics.add(np.take_along_axis(predictions[rows], order, 1), order, padded[rows])
    return metrics


@pytest.mark.parametrize(
    "predictions, labels, hit_at_1, perr",
    [
        ([[0.9, 0.1, 0.8]], [[0, 2]], 1.0, 1.0),  # both labels on top
        ([[0.9, 0.8, 0.1]], [[0, 2]], 1.0, 0.5),  # one of the best two is a label
        ([[0.1, 0.8, 0.9]], [[0]], 0.0, 0.0),  # none
        ([[0.9, 0.8, 0.1]], [[]], 0.0, 0.0),  # a video without labels counts as 0
        ([[0.9, 0.1], [0.9, 0.1]], [[0], [1]], 0.5, 0.5),  # the mean over videos
        ([[0.5, 0.5]], [[1]], 0.0, 0.0),  # a tie goes to the lower class
        ([[0.5, 0.5]], [[0]], 1.0, 1.0),
        ([[0.5, 0.0, 0.0]], [[0, 1]], 1.0, 0.5),  # a label scored 0 is missed in PERR
    ],
)
def test_hit_at_1_and_perr_by_hand(predictions, labels, hit_at_1, perr):
    metrics = measured(predictions, labels)
    assert metrics.hit_at_1() == pytest.approx(hit_at_1)
    assert metrics.perr() == pytest.approx(perr)


def test_gap_by_hand():
    # One list of all pairs: 0.9 true, 0.8 false, 0.7 true, 0.1 false: (1/1 + 2/3) / 2.
    metrics = measured([[0.9, 0.8], [0.7, 0.1]], [[0], [0]])
    assert metrics.gap() == pytest.approx((1 + 2 / 3) / 2)


def test_gap_counts_labels_outside_the_top_k():
    # Two labels, of which only one pair is kept: the other can never be found.
    assert measured([[0.9, 0.8, 0.1]], [[0, 1]], top_k=1).gap() == pytest.approx(0.5)


def test_map_is_over_classes_that_a_video_has():
    # Class 0: 0.9 true, 0.7 true -> 1; class 1: 0.8 false, 0.1 true -> 1/2; class 2: no video.
    metrics = measured([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0]], [[0], [0, 1]])
    assert metrics.map() == pytest.approx(0.75)
    np.testing.assert_allclose(metrics.average_precision(), [1, 0.5, np.nan])


def test_map_of_a_class_outside_every_top_k_is_0():
    assert measured([[0.9, 0.1]], [[1]], top_k=1).map() == 0


def test_no_videos_give_zeros():
    assert set(VideoMetrics(5).results().values()) == {0}


def test_too_few_top_classes_is_an_error():
    metrics = VideoMetrics(num_classes=5, top_k=1)
    with pytest.raises(ValueError, match=r"\[batch, 3\] or wider; got \(1, 2\)"):
        metrics.add(np.zeros((1, 2)), np.zeros((1, 2)), np.array([[0, 1, 2]]))


def average_precision_in_order(hits, num_positives):
    """The definition, pair by pair."""
    found, total = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            found += 1
            total += found / rank
    return total / num_positives


def test_ties_count_as_the_mean_over_their_orders():
    # 0.9 true; then three of equal score, two true; then 0.1 true.
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
    positives = np.bincount(names[hits], minlength=3) + 1  # one that no pair stands for
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
def test_order_of_videos_and_batch_size_change_nothing(videos, top_k, batch_size, random):
    predictions, labels = videos
    whole = measured(predictions, labels, top_k).results()
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = measured(predictions[order], [labels[i] for i in order], top_k, batch_size)
    assert shuffled.results() == pytest.approx(whole, abs=1e-12)


@settings(max_examples=50)
@given(scored_videos(), scored_videos())
def test_merging_equals_adding(first, second):
    num_classes = min(first[0].shape[1], second[0].shape[1])
    videos = [
        (p[:, :num_classes], [[c for c in row if c < num_classes] for row in labels])
        for p, labels in (first, second)
    ]
    merged = measured(*videos[0], top_k=3)
    merged.merge(measured(*videos[1], top_k=3))
    together = measured(
        np.concatenate([videos[0][0], videos[1][0]]), videos[0][1] + videos[1][1], top_k=3
    )
    assert merged.results() == pytest.approx(together.results(), abs=1e-12)
