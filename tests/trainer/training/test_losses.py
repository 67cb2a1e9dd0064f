"""The losses: by hand, and against google/youtube-8m's definitions in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trainer.training import losses, registry


def loss(name, predictions, labels):
    """[batch] losses, float64."""
    predictions = tf.constant(predictions, tf.float32)
    labels = losses.multi_hot(tf.constant(labels, tf.int32), predictions.shape[1])
    return losses.get(name)(labels, predictions).numpy().astype(np.float64)


def loss_and_gradient(name, predictions, labels):
    """Losses [batch] and their gradient by the predictions, from multi-hot labels."""
    predictions = tf.constant(predictions, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        value = losses.get(name)(tf.cast(labels, tf.float32), predictions)
    return value, tape.gradient(value, predictions)


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([[2, 0, -1], [1, -1, -1]], [[True, False, True], [False, True, False]]),
        ([[0, 1, 2], [-1, -1, -1]], [[True, True, True], [False, False, False]]),
        ([[-1, 2], [-1, -1]], [[False, False, True], [False, False, False]]),
        (np.zeros([2, 0]), [[False, False, False], [False, False, False]]),
        (np.zeros([0, 4]), np.zeros([0, 3], bool)),
    ],
)
def test_multi_hot_labels(labels, expected):
    assert np.array_equal(losses.multi_hot(tf.constant(labels, tf.int32), 3), expected)


@pytest.mark.parametrize(
    "predictions, labels, expected",
    [
        # -log(.5 + 1e-5) for each of two classes, whichever is true.
        ([[0.5, 0.5]], [[0]], [2 * 0.693127]),
        ([[0.5, 0.5]], [[1]], [2 * 0.693127]),
        # -log(.8 + 1e-5) - log(.9 + 1e-5) - log(.7 + 1e-5)
        ([[0.8, 0.1, 0.7]], [[2, 0]], [0.223131 + 0.105349 + 0.356661]),
        # No label: -log(.2 + 1e-5) - log(.9 + 1e-5)
        ([[0.8, 0.1]], [[-1]], [1.609388 + 0.105349]),
        # Sure and right, a hair below 0; sure and wrong, -log(1e-5) a class.
        ([[1.0, 0.0]], [[0]], [-2e-5]),
        ([[1.0, 0.0]], [[1]], [2 * 11.512925]),
        # A row a video, padded with -1.
        ([[0.5, 0.5], [0.8, 0.1]], [[1, 0], [-1, -1]], [1.386254, 1.714737]),
    ],
)
def test_cross_entropy_by_hand(predictions, labels, expected):
    got = loss("CrossEntropyLoss", predictions, labels)
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "predictions, labels, expected",
    [
        ([[0.75, 0.25]], [[0]], [0.25 + 1.25]),  # 1 - p where true, 1 + p where not
        ([[0.75, 0.25]], [[1, 0]], [0.25 + 0.75]),
        ([[0.75, 0.25]], [[-1, -1]], [1.75 + 1.25]),
        ([[1.0, 0.0]], [[0, -1]], [0.0 + 1.0]),
    ],
)
def test_hinge_by_hand(predictions, labels, expected):
    assert loss("HingeLoss", predictions, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "predictions, labels, expected",
    [
        ([[0.5, 0.5, 0.5, 0.5]], [[1]], [1.386294]),  # log 4
        ([[0.5, 0.5, 0.5, 0.5]], [[3, 1]], [1.386294]),  # shared by the labels: half of log 4 each
        ([[1.0, 0.0]], [[0, -1]], [0.313262]),  # log(1 + 1/e): of probabilities, not logits
        ([[1.0, 0.0]], [[1, -1]], [1.313262]),
        ([[0.9, 0.2]], [[-1, -1]], [0.0]),  # no labels
    ],
)
def test_softmax_by_hand(predictions, labels, expected):
    assert loss("SoftmaxLoss", predictions, labels) == pytest.approx(expected, rel=1e-5)


# The definitions, over labels y [batch, num_classes] of 0 and 1 and probabilities p.


def original_cross_entropy(p, y):
    return -tf.reduce_sum(y * tf.math.log(p + 1e-5) + (1 - y) * tf.math.log(1 - p + 1e-5), axis=1)


def original_hinge(p, y):
    return tf.reduce_sum(tf.maximum(0.0, 1 - (2 * y - 1) * p), axis=1)


def original_softmax(p, y):
    share = y / tf.maximum(tf.reduce_sum(y, axis=1, keepdims=True), 10e-8)
    return -tf.reduce_sum(share * tf.math.log(tf.nn.softmax(p)), axis=1)


ORIGINAL = {
    "CrossEntropyLoss": original_cross_entropy,
    "HingeLoss": original_hinge,
    "SoftmaxLoss": original_softmax,
}


@st.composite
def batches(draw):
    """Probabilities [batch, num_classes], and whether each class is a label."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 7)))
    p = draw(npst.arrays(np.float32, shape, elements=st.floats(2**-10, 1 - 2**-10, width=32)))
    return p, draw(npst.arrays(bool, shape))


@pytest.mark.parametrize("name", sorted(ORIGINAL))
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_equals_the_originals_definition_and_so_does_its_gradient(name, batch):
    p, labels = batch
    p64 = tf.constant(p, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(p64)
        expected = ORIGINAL[name](p64, tf.constant(labels, tf.float64))
    got, gradient = loss_and_gradient(name, p, labels)
    assert got.shape == (len(p),)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)
    assert gradient.shape == p.shape
    np.testing.assert_allclose(gradient, tape.gradient(expected, p64), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", sorted(ORIGINAL))
def test_gradients_stay_finite_for_predictions_of_exactly_0_and_1(name):
    _, gradient = loss_and_gradient(name, [[0.0, 1.0, 0.0, 1.0]], [[1, 1, 0, 0]])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", sorted(ORIGINAL))
def test_a_batch_without_any_label(name):
    predictions = np.float32([[0.25, 0.5, 0.75], [0.5, 0.5, 0.5]])
    p = tf.constant(predictions, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(p)
        expected = ORIGINAL[name](p, tf.zeros([2, 3], tf.float64))
    assert loss(name, predictions, [[-1], [-1]]) == pytest.approx(expected.numpy(), rel=1e-5)
    _, gradient = loss_and_gradient(name, predictions, np.zeros([2, 3]))
    np.testing.assert_allclose(gradient, tape.gradient(expected, p), rtol=1e-4)


def test_every_registered_loss_is_compared_with_the_original():
    assert sorted(registry.LOSSES) == sorted(ORIGINAL)
