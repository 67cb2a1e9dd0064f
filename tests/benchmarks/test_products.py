"""The products that are found in a graph are those that a call of it does."""

import pytest
import tensorflow as tf

from benchmarks.products import Product, find, only

A, B, C = tf.ones([2, 3]), tf.ones([3, 4]), tf.ones([4, 2])


def traced(function, *arguments):
    return tf.function(function).get_concrete_function(*arguments)


def product(left, right, transpose_left=False, transpose_right=False, dtype=tf.float32):
    return Product(left, right, transpose_left, transpose_right, dtype)


def test_counts_equal_products_and_tells_transposes_and_types_apart():
    def products():
        bfloat16 = tf.matmul(tf.cast(B, tf.bfloat16), tf.cast(C, tf.bfloat16))
        return A @ B, A @ B + 1, tf.matmul(A, A, transpose_b=True), bfloat16

    assert find(traced(products), iterations=9) == {
        product((2, 3), (3, 4)): 2,
        product((2, 3), (2, 3), transpose_right=True): 1,
        product((3, 4), (4, 2), dtype=tf.bfloat16): 1,
    }


def test_leaves_out_what_no_result_needs():
    def products():
        _ = B @ C
        return A @ B

    assert find(traced(products), iterations=9) == {product((2, 3), (3, 4)): 1}


def test_keeps_what_a_variable_needs():
    variable = tf.Variable(tf.zeros([2, 4]))

    def products():
        variable.assign(A @ B)

    assert find(traced(products), iterations=9) == {product((2, 3), (3, 4)): 1}


def test_looks_into_calls_loops_and_conditions():
    square = tf.ones([2, 2])
    inner = tf.function(lambda: A @ B)

    def products(flag):
        state = square
        for _ in tf.range(5):
            state = state @ square
        return inner(), state, tf.cond(flag, lambda: B @ C, lambda: tf.zeros([3, 2]))

    assert find(traced(products, tf.constant(True)), iterations=5) == {
        product((2, 3), (3, 4)): 1,
        product((2, 2), (2, 2)): 5,
        product((3, 4), (4, 2)): 1,
    }


def test_finds_the_products_of_a_gradient_and_of_batches():
    weights = tf.Variable(tf.ones([3, 4]))

    def gradient():
        with tf.GradientTape() as tape:
            result = A @ weights
        return tape.gradient(result, weights), tf.ones([7, 2, 3]) @ tf.ones([7, 3, 2])

    assert find(traced(gradient), iterations=9) == {
        product((2, 3), (2, 4), transpose_left=True): 1,
        product((7, 2, 3), (7, 3, 2)): 1,
    }


def test_an_unknown_size_is_an_error():
    spec = tf.TensorSpec([None, 3])
    with pytest.raises(ValueError, match=r"\(None, 3\) by \(3, 4\), of unknown size"):
        find(traced(lambda left: left @ B, spec), iterations=9)


def test_computes_only_the_products():
    run = only(find(traced(lambda: (A @ B, tf.matmul(A, A, transpose_a=True))), iterations=9))
    assert run() is None
