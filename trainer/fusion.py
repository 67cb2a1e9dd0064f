"""Mathematics of large tensors, arranged for speed; benchmarks/ measures what each part brings."""

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


class Dense(keras.layers.Dense):
    """keras' Dense, float32 in and out, faster to train; with mixed precision in bfloat16."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, autocast=False, **kwargs)

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        product = self.product(inputs)
        if self.use_bias and self.activation is keras.activations.sigmoid:
            return sigmoid_of_sum(product, self.bias.value)
        result = float32(product)
        return self.activation(tf.nn.bias_add(result, self.bias.value) if self.use_bias else result)

    def product(self, inputs):
        """In training, inputs times kernel, in the type that they are multiplied in."""
        if self.compute_dtype == "bfloat16":
            return bfloat16_product(inputs, self.kernel.value)
        return tf.tensordot(inputs, self.kernel.value, 1)


@tf.custom_gradient
def sigmoid_of_sum(values, bias):
    """sigmoid(values [..., n] + bias [n]), float32, in few passes over memory.

    Args:
        values: float32 or bfloat16; so are the gradients then.
        bias: float32.
    """
    result = _sigmoid_of_sum(values, bias)

    def gradient(upstream):
        of_values = _sigmoid_gradient(result, upstream, values.dtype)
        rows = tf.reshape(of_values, [-1, bias.shape[0]])
        # As a product, the sum of the rows is faster than TensorFlow's own.
        of_bias = tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]
        return of_values, of_bias

    return result, gradient


@fused
def _sigmoid_of_sum(values, bias):
    return tf.sigmoid(float32(values) + bias)


@fused
def _sigmoid_gradient(sigmoid, upstream, dtype):
    return in_type(upstream * sigmoid * (1 - sigmoid), dtype)


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
