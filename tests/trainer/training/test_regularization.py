"""The regularization loss and its gradient, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.training import regularization

WEIGHTS = [[[1.0, -2.0], [0.5, 0.0]], [3.0, 4.0]]
GRADIENTS = [[[0.5, 0.25], [-1.0, 2.0]], [1.0, -1.0]]
WITH_HALF = [[[1.0, -0.75], [-0.75, 2.0]], [1.0, -1.0]]  # plus half of the first weights


def weights(*decays):
    """Variables with regularization losses of decay * sum(weight^2) / 2."""
    variables = [keras.Variable(weight) for weight in WEIGHTS]
    for variable, decay in zip(variables, decays, strict=True):
        variable.regularizer = keras.regularizers.L2(decay / 2) if decay else None
    return variables


def test_the_loss_is_half_the_sum_of_squares_times_the_decay():
    # .5 * (1 + 4 + .25) / 2 + 2 * (9 + 16) / 2
    assert float(regularization.loss(weights(0.5, 2.0))) == 26.3125
    assert float(regularization.loss(weights(0, 0))) == 0


def gradients(variables, dtype=tf.float32, penalty=1.0):
    return [
        regularization.add_gradient(tf.constant(gradient, dtype), variable, penalty)
        for gradient, variable in zip(GRADIENTS, variables, strict=True)
    ]


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_its_gradient_is_added_to_others(dtype, compiled):
    variables = weights(0.5, 0)
    function = lambda: gradients(variables, dtype)  # noqa: E731
    if compiled:
        function = tf.function(function)
    for _ in range(2):  # no state is kept for the next step
        for got, expected in zip(function(), WITH_HALF, strict=True):
            assert got.dtype == tf.float32
            assert np.array_equal(got, expected)


def test_the_penalty_weighs_the_gradient():
    for got, expected in zip(gradients(weights(0.25, 0), penalty=2.0), WITH_HALF, strict=True):
        assert np.array_equal(got, expected)
    for got, expected in zip(gradients(weights(0.25, 1), penalty=0.0), GRADIENTS, strict=True):
        assert np.array_equal(got, expected)


def test_the_weights_do_not_change():
    variables = weights(0.5, 0.5)
    gradients(variables)
    for got, expected in zip(variables, WEIGHTS, strict=True):
        assert np.array_equal(got, expected)


def test_any_keras_regularizer():
    (variable, _) = weights(0, 0)
    variable.regularizer = keras.regularizers.L1(0.5)
    got = regularization.add_gradient(tf.zeros([2, 2]), variable, 2.0)
    assert got.numpy().tolist() == [[1.0, -1.0], [1.0, 0.0]]
