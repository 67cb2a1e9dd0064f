"""CPU kernels equal their plain versions up to rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trainer.models import frames, kernels, layers


def rounded(values) -> np.ndarray:
    """To the nearest bfloat16, in float32."""
    return tf.cast(tf.cast(tf.constant(values, tf.float32), tf.bfloat16), tf.float32).numpy()


def test_rounding_by_hand():
    # bfloat16 has 8 bits of precision: 1 + 1/128 is the next after 1. Ties go to the even one.
    values = [1.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 300, -1 - 1 / 200, 0.0, -0.0, 3e38]
    expected = [1.0, 1.0, 1 + 4 / 256, 1.0, -1 - 1 / 128, 0.0, -0.0]
    got = tf.cast(kernels.to_bfloat16(tf.constant(values)), tf.float32).numpy()
    assert got[:7].tolist() == expected
    assert got[7] == rounded([3e38])[0]


@settings(max_examples=30, deadline=None)
@given(values=npst.arrays(np.float32, 16, elements=st.floats(width=32, allow_nan=False)))
def test_rounding_is_tensorflows(values):
    got = kernels.to_float32(kernels.to_bfloat16(tf.constant(values))).numpy()
    assert got.tobytes() == rounded(values).tobytes()


def test_what_is_not_finite_stays_so():
    # NaN as x86, NVIDIA's GPUs and a file may have it, and the infinities.
    bits = [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000]
    values = tf.bitcast(tf.constant(bits, tf.uint32), tf.float32)
    got = kernels.to_float32(kernels.to_bfloat16(values)).numpy()
    assert np.isnan(got[:5]).all()
    assert got[5:].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)], ids=["videos", "frames"])
def test_a_bfloat16_product_and_its_gradients(shape):
    # Small whole numbers, exact in bfloat16: the products are too.
    rng = np.random.default_rng(0)
    values = tf.constant(rng.integers(-3, 4, shape), tf.float32)
    weights = tf.Variable(tf.constant(rng.integers(-3, 4, [5, 6]), tf.float32))
    upstream = tf.constant(rng.integers(-3, 4, [*shape[:-1], 6]), tf.float32)

    def result_and_gradients(product):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = product(values, weights.value())
        return result, *tape.gradient(result, [values, weights], upstream)

    got = result_and_gradients(lambda v, w: kernels.to_float32(kernels.bfloat16_matmul(v, w)))
    expected = result_and_gradients(lambda v, w: tf.tensordot(v, w, 1))
    for value, expected_value in zip(got, expected, strict=True):
        assert np.array_equal(tf.cast(value, tf.float32), expected_value)
    assert got[0].dtype == tf.float32


def test_dense_is_keras_dense_in_float32():
    values = tf.random.stateless_normal([4, 5], [0, 0])
    ours, kerass = layers.Dense(3, activation="tanh"), keras.layers.Dense(3, activation="tanh")
    ours(values), kerass(values)
    kerass.set_weights(ours.get_weights())
    assert np.array_equal(ours(values), kerass(values))


def test_fused_functions_are_the_plain_ones():
    def plain(a, b):
        return tf.exp(a) * b + tf.sqrt(tf.abs(a))

    a, b = tf.random.stateless_normal([2, 7, 5], [0, 0])
    np.testing.assert_allclose(kernels.fused(plain)(a, b), plain(a, b), rtol=1e-5)


def test_kernels_are_for_training_without_a_gpu(monkeypatch):
    assert kernels.use(training=True)
    assert not kernels.use(training=False)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert not kernels.use(training=True)


@pytest.mark.parametrize("shape", [(3, 300, 1152), (3, 7, 5), (1, 1, 128), (0, 300, 4)])
@pytest.mark.parametrize("function", [frames.unit_frames, frames.sum_of_unit_frames])
def test_frames(function, shape):
    rng = np.random.default_rng(0)
    features = tf.constant(rng.integers(0, 256, shape), tf.uint8)
    num_frames = tf.constant(rng.integers(0, shape[1] + 1, shape[0]), tf.int32)
    got = function(features, num_frames, training=True)
    expected = function(features, num_frames, training=False)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_dense_layers(dtype, monkeypatch):
    layer = layers.Dense(6, activation="tanh", dtype=dtype)
    values = tf.random.stateless_normal([4, 3, 5], [0, 0])

    def outputs_and_gradients():
        with tf.GradientTape() as tape:
            tape.watch(values)
            outputs = layer(values, training=True)
        gradients = tape.gradient(outputs, [values, *(w.value for w in layer.weights)])
        return [tf.cast(tensor, tf.float32).numpy() for tensor in (outputs, *gradients)]

    got = outputs_and_gradients()
    monkeypatch.setattr(kernels, "use", lambda training: False)
    for value, expected in zip(got, outputs_and_gradients(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0.02, atol=0.02)
