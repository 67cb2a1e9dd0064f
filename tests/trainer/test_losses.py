"""The losses: by hand, and against google/youtube-8m's dense definitions in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trainer import config, losses
from trainer.fusion import fused


def loss(name, predictions, labels):
    """[batch] losses, float64."""
    predictions, labels = tf.constant(predictions, tf.float32), tf.constant(labels, tf.int32)
    return losses.LOSSES[name].values(predictions, labels).numpy().astype(np.float64)


@fused  # as in the step: elsewhere a place outside would be an error
def gradient_of(name, predictions, labels, factor):
    return losses.LOSSES[name].gradient(predictions, labels, factor)


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


# The definitions, over dense labels y [batch, num_classes] and probabilities p.


def dense_cross_entropy(p, y):
    return -tf.reduce_sum(y * tf.math.log(p + 1e-5) + (1 - y) * tf.math.log(1 - p + 1e-5), axis=1)


def dense_hinge(p, y):
    return tf.reduce_sum(tf.maximum(0.0, 1 - (2 * y - 1) * p), axis=1)


def dense_softmax(p, y):
    share = y / tf.maximum(tf.reduce_sum(y, axis=1, keepdims=True), 10e-8)
    return -tf.reduce_sum(share * tf.math.log(tf.nn.softmax(p)), axis=1)


DENSE = {
    "CrossEntropyLoss": dense_cross_entropy,
    "HingeLoss": dense_hinge,
    "SoftmaxLoss": dense_softmax,
}


@st.composite
def batches(draw):
    """Probabilities [batch, num_classes] and dense labels of the same shape."""
    shape = draw(st.sampled_from([(1, 1), (4, 7), (3, 2)]))  # few: XLA compiles for each
    p = draw(npst.arrays(np.float32, shape, elements=st.floats(2**-10, 1 - 2**-10, width=32)))
    return p, draw(npst.arrays(bool, shape))


def padded(dense):
    """Dense labels as class ids, in a row's falling order, then -1."""
    ids = [np.flatnonzero(row)[::-1].tolist() for row in dense]
    return tf.constant([row + [-1] * (8 - len(row)) for row in ids], tf.int32)


@pytest.mark.parametrize("name", sorted(DENSE))
@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_equals_the_dense_definition_and_so_does_its_gradient(name, batch):
    p, y = batch
    p32, p64 = tf.constant(p), tf.constant(p, tf.float64)
    factor = np.linspace(0.5, 2, p.size, dtype=np.float32).reshape(p.shape)
    with tf.GradientTape() as tape:
        tape.watch(p64)
        expected = DENSE[name](p64, tf.constant(y, tf.float64))
    got = losses.LOSSES[name].values(p32, padded(y))
    assert got.shape == (len(p),)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)
    gradient = gradient_of(name, p32, padded(y), tf.constant(factor))
    expected = tape.gradient(expected, p64) * factor
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=4e-4)


@pytest.mark.parametrize("name", sorted(DENSE))
def test_gradients_stay_finite_for_predictions_of_exactly_0_and_1(name):
    predictions = tf.constant([[0.0, 1.0, 0.0, 1.0]])
    gradient = gradient_of(name, predictions, tf.constant([[1, 0]]), tf.ones([1, 4]))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", sorted(DENSE))
@pytest.mark.parametrize(
    "labels", [np.zeros([2, 0]), [[-1, -1], [-1, -1]]], ids=["no column", "padding only"]
)
def test_a_batch_without_any_label(name, labels):
    predictions = np.float32([[0.25, 0.5, 0.75], [0.5, 0.5, 0.5]])
    p = tf.constant(predictions, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(p)
        expected = DENSE[name](p, tf.zeros([2, 3], tf.float64))
    assert loss(name, predictions, labels) == pytest.approx(expected.numpy(), rel=1e-5)
    labels = tf.constant(labels, tf.int32)
    gradient = gradient_of(name, tf.constant(predictions), labels, tf.ones([2, 3]))
    np.testing.assert_allclose(gradient, tape.gradient(expected, p), rtol=1e-4)


def test_every_loss_that_the_flags_allow_is_there():
    assert sorted(losses.LOSSES) == sorted(config.LOSSES)
