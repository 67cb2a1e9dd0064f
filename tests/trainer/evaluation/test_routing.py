"""The analysis of routing, by hand."""

import numpy as np
import pytest

from trainer.evaluation.routing import analyze, mutual_information


def test_experts_that_specialize():
    # Two experts, each certain of its own videos, which are those of one category.
    probabilities = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float64)
    losses = np.array([[1, 5], [3, 5], [4, 2], [4, 2]], np.float64)
    routing = analyze(probabilities, losses, np.array([7, 7, 3, 3]))
    assert routing.load.tolist() == [0.5, 0.5]
    assert routing.load_entropy == 1
    assert routing.certainty == 1
    assert routing.information == pytest.approx(1)
    assert routing.loss.tolist() == [[2, 5], [4, 2]]
    assert routing.diagonal_wins == 1


def test_a_router_that_does_not_look_at_the_video():
    probabilities = np.full([6, 2], [0.6, 0.4])
    losses = np.tile([2.0, 1.0], (6, 1))
    routing = analyze(probabilities, losses, np.array([0, 1, 2, 0, 1, -1]))
    assert routing.load.tolist() == [1, 0]
    assert routing.certainty == pytest.approx(0)
    assert routing.information == pytest.approx(0)
    assert np.isnan(routing.loss[1]).all()
    assert routing.diagonal_wins == 0


def test_shuffling_shows_the_information_due_to_chance():
    rng = np.random.default_rng(0)
    categories = np.arange(200) % 50
    regimes = rng.integers(0, 8, 200)  # independent, but few videos per category
    routing = analyze(np.eye(8)[regimes], np.zeros([200, 8]), categories)
    assert routing.information > 0.5
    assert routing.information == pytest.approx(routing.shuffled_information, rel=0.2)


def test_mutual_information_by_hand():
    # p(0,0) = p(1,1) = 3/8, p(0,1) = p(1,0) = 1/8: 1 + 1 - H(3/8, 3/8, 1/8, 1/8).
    a = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    b = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    expected = 2 - (2 * 3 / 8 * np.log2(8 / 3) + 2 * 1 / 8 * 3)
    assert mutual_information(a, b) == pytest.approx(expected)
