"""Elementwise mathematics in one pass over memory, by XLA."""

import tensorflow as tf


def fused(function):
    """`function` compiled by XLA, for each new shape of its tensors.

    It pays for elementwise functions of large tensors: plain TensorFlow passes over memory once an
    operation. It does not for matrix products, which TensorFlow's own library does faster. For
    training only: what is exported must run where there is no XLA.
    """
    return tf.function(function, jit_compile=True)
