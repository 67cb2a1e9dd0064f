"""Mathematics of large tensors, arranged for speed; benchmarks/ measures what each part brings."""

import math

import keras
import tensorflow as tf


def fused(function):
    """`function` in few passes over memory, compiled by XLA for each new shape of its tensors.

    It pays for elementwise functions: plain TensorFlow passes over memory once an operation. It
    does not for matrix products, which TensorFlow's own library does faster, nor for sums over the
    last axis; and reshaping belongs outside. For training only: what is exported must run where
    there is no XLA.
    """
    return tf.function(function, jit_compile=True, autograph=False)


class Float32Weights:
    """For a Keras layer: its weights stay float32 to it, in mixed precision too.

    Keras casts them, in spite of the layer's autocast=False, where no other layer is being called.
    """

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, autocast=False, **kwargs)


class Dense(Float32Weights, keras.layers.Dense):
    """keras' Dense, float32 in and out, faster to train; with mixed precision in bfloat16."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, autocast=False, **kwargs)

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        result = float32(self.product(inputs))
        return self.activation(tf.nn.bias_add(result, self.bias.value) if self.use_bias else result)

    def product(self, inputs, kernel=None):
        """In training, inputs times kernel, in the type that they are multiplied in.

        Args:
            kernel: the layer's own, of `in_turn`.
        """
        kernel = self.kernel.value if kernel is None else kernel
        if self.compute_dtype == "bfloat16":
            return bfloat16_product(inputs, kernel)
        return tf.tensordot(inputs, kernel, 1)


@tf.custom_gradient
def in_turn(first, kernel):
    """A product and the kernel of the next one, unchanged, for the two to be done one by one.

    So are their kernels' gradients, in reverse order. Side by side they hinder each other.
    """
    with tf.control_dependencies([first]):
        results = tf.identity(first), tf.identity(kernel)

    def gradient(of_first, of_kernel):
        with tf.control_dependencies([of_kernel]):
            return tf.identity(of_first), of_kernel

    return results, gradient


def sum_of_rows(values):
    """[..., n] float32: the sum over the first axis of float32 or bfloat16 values.

    A product, which is faster than TensorFlow's sum.
    """
    rows = tf.reshape(values, [-1, math.prod(values.shape[1:])])
    sums = tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)
    return tf.cast(tf.reshape(sums, values.shape[1:]), tf.float32)


@tf.custom_gradient
def bfloat16_product(values, weights):
    """values [..., n] times weights [n, m], float32 both, multiplied in bfloat16: [..., m].

    The result and the gradient of `weights` are left in bfloat16, for whoever reads them next to
    convert on the way.
    """
    rows = _bfloat16(tf.reshape(values, [-1, weights.shape[0]]))
    columns = _bfloat16(weights)
    result = tf.matmul(rows, columns)

    def gradient(upstream):
        upstream = tf.reshape(upstream, [-1, weights.shape[1]])
        of_values = _float32(tf.matmul(upstream, columns, transpose_b=True))
        # Transposed on its own, the product is a third faster than with transpose_a.
        of_weights = tf.matmul(_transposed(rows), upstream)
        return tf.reshape(of_values, tf.shape(values)), of_weights

    shape = tf.concat([tf.shape(values)[:-1], [weights.shape[1]]], axis=0)
    result = tf.reshape(result, shape)
    return tf.ensure_shape(result, [*values.shape[:-1], weights.shape[1]]), gradient


@tf.custom_gradient
def float32(values):
    """float32 values of float32 or bfloat16 ones."""
    result = _float32(values) if values.dtype == tf.bfloat16 else tf.identity(values)
    return result, lambda upstream: in_type(upstream, values.dtype)


def in_type(gradient, dtype):
    """A float32 gradient in the type of what it is of, float32 or bfloat16."""
    return _bfloat16(gradient) if dtype == tf.bfloat16 else gradient


@fused
def _bfloat16(values):
    """The nearest bfloat16, ties to even. As tf.cast, in half the time."""
    bits = tf.bitcast(values, tf.uint32)
    odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 16), 1)
    rounded = tf.bitwise.right_shift(bits + 0x7FFF + odd, 16)
    rounded = tf.where(values != values, tf.constant(0x7FC0, tf.uint32), rounded)  # NaN stays NaN
    return tf.bitcast(tf.cast(rounded, tf.uint16), tf.bfloat16)


@fused
def _float32(values):
    bits = tf.cast(tf.bitcast(values, tf.uint16), tf.uint32)
    return tf.bitcast(tf.bitwise.left_shift(bits, 16), tf.float32)


@fused
def _transposed(values):
    return tf.transpose(values)
