"""The regularization loss and its gradient, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.training.regularization import Regularization

WEIGHTS = [[[1.0, -2.0], [0.5, 0.0]], [3.0, 4.0]]
GRADIENTS = [[[0.5, 0.25], [-1.0, 2.0]], [1.0, -1.0]]
WITH_HALF = [[[1.0, -0.75], [-0.75, 2.0]], [1.0, -1.0]]  # and half of the first weights


@pytest.fixture
def weights():
    return [tf.Variable(weight) for weight in WEIGHTS]


def test_the_loss_is_half_the_sum_of_squares_times_the_decay(weights):
    # .5 * (1 + 4 + .25) / 2 + 2 * (9 + 16) / 2
    assert float(Regularization(weights, [0.5, 2.0]).loss()) == 26.3125
    assert float(Regularization(weights, [0.0, 0.0]).loss()) == 0


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_its_gradient_is_added_to_others(weights, dtype, compiled):
    added_to = Regularization(weights, [0.5, 0.0]).added_to
    if compiled:
        added_to = tf.function(added_to)
    for _ in range(2):  # nothing is left behind for the next step
        sums = added_to([tf.constant(gradient, dtype) for gradient in GRADIENTS])
        for got, expected in zip(sums, WITH_HALF, strict=True):
            assert got.dtype == tf.float32
            assert np.array_equal(got, expected)


def test_nothing_else_changes(weights):
    regularization = Regularization(weights, [0.5, 0.5])
    gradients = [tf.constant(gradient) for gradient in GRADIENTS]
    regularization.added_to(gradients)
    for got, expected in zip(gradients + weights, GRADIENTS + WEIGHTS, strict=True):
        assert np.array_equal(got, expected)
    assert [place.numpy().size for place in regularization.places] == [0, 0]
