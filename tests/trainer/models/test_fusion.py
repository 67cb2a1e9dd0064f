"""The arrangements for speed: they change no number but by rounding."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trainer.models import fusion


def rounded(values) -> np.ndarray:
    """To the nearest bfloat16, in float32."""
    return tf.cast(tf.cast(tf.constant(values, tf.float32), tf.bfloat16), tf.float32).numpy()


def test_rounding_by_hand():
    # bfloat16 has 8 bits of precision: 1 + 1/128 is the next after 1. Ties go to the even one.
    values = [1.0, 1 + 1 / 256, 1 + 3 / 256, 1 + 1 / 300, -1 - 1 / 200, 0.0, -0.0, 3e38]
    expected = [1.0, 1.0, 1 + 4 / 256, 1.0, -1 - 1 / 128, 0.0, -0.0]
    got = tf.cast(fusion._bfloat16(tf.constant(values)), tf.float32).numpy()
    assert got[:7].tolist() == expected
    assert got[7] == rounded([3e38])[0]


@settings(max_examples=30, deadline=None)
@given(values=npst.arrays(np.float32, 16, elements=st.floats(width=32, allow_nan=False)))
def test_rounding_is_tensorflows(values):
    got = fusion._float32(fusion._bfloat16(tf.constant(values))).numpy()
    assert got.tobytes() == rounded(values).tobytes()


def test_what_is_not_finite_stays_so():
    # NaN as x86, NVIDIA's GPUs and a file may have it, and the infinities.
    bits = [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000]
    values = tf.bitcast(tf.constant(bits, tf.uint32), tf.float32)
    got = fusion._float32(fusion._bfloat16(values)).numpy()
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

    got = result_and_gradients(lambda v, w: fusion.float32(fusion.bfloat16_product(v, w)))
    expected = result_and_gradients(lambda v, w: tf.tensordot(v, w, 1))
    for value, expected_value in zip(got, expected, strict=True):
        assert np.array_equal(tf.cast(value, tf.float32), expected_value)
    assert got[0].dtype == tf.float32


def test_dense_is_keras_dense_in_float32():
    values = tf.random.stateless_normal([4, 5], [0, 0])
    ours, kerass = fusion.Dense(3, activation="tanh"), keras.layers.Dense(3, activation="tanh")
    ours(values), kerass(values)
    kerass.set_weights(ours.get_weights())
    assert np.array_equal(ours(values), kerass(values))


def test_fused_functions_are_the_plain_ones():
    def plain(a, b):
        return tf.exp(a) * b + tf.sqrt(tf.abs(a))

    a, b = tf.random.stateless_normal([2, 7, 5], [0, 0])
    np.testing.assert_allclose(fusion.fused(plain)(a, b), plain(a, b), rtol=1e-5)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_a_sum_of_rows(dtype):
    rng = np.random.default_rng(0)
    values = rng.integers(-3, 4, [4, 2, 5])  # exact in bfloat16, as their sums are
    got = fusion.sum_of_rows(tf.constant(values, dtype))
    assert got.dtype == tf.float32
    assert np.array_equal(got, values.sum(axis=0))


def needed_by(operation) -> set:
    """What must be done before an operation."""
    waiting, seen = [operation], set()
    while waiting:
        operation = waiting.pop()
        before = [tensor.op for tensor in operation.inputs] + operation.control_inputs
        waiting += [one for one in before if one not in seen]
        seen.update(before)
    return seen


def test_products_in_turn_are_the_products_and_so_are_their_gradients():
    values, one, other = tf.unstack(tf.random.stateless_normal([3, 4, 4], [0, 0]))
    one, other = tf.Variable(one), tf.Variable(other)

    def result_and_gradients(in_turn):
        with tf.GradientTape() as tape:
            first, kernel = in_turn(values @ one, other)
            result = tf.exp(first) + tf.sin(values @ kernel)
        return result, *tape.gradient(result, [one, other])

    in_turn = tf.function(lambda: result_and_gradients(fusion.in_turn))
    products = [
        operation
        for operation in in_turn.get_concrete_function().graph.get_operations()
        if operation.type == "MatMul"
    ]
    assert len(products) == 4
    for before, after in itertools.pairwise(products):
        assert before in needed_by(after)
    got = in_turn()
    expected = result_and_gradients(lambda first, kernel: (first, kernel.value()))
    for value, expected_value in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, expected_value, rtol=1e-6)
