"""Regularization losses, as the weights' Keras regularizers define them."""

import keras
import tensorflow as tf


def loss(weights: list[keras.Variable]) -> tf.Tensor:
    """Sum of the regularization losses of the weights, a float32 scalar."""
    regularized = [weight for weight in weights if weight.regularizer]
    return tf.add_n([tf.zeros([]), *(w.regularizer(w.value) for w in regularized)])


def add_gradient(gradient: tf.Tensor, weight: keras.Variable, penalty: float) -> tf.Tensor:
    """Gradient of the label loss plus that of `penalty` times the regularization loss.

    Args:
        gradient: of the label loss by `weight`, float32 or bfloat16.
        weight: the weight.
        penalty: factor of the regularization loss.

    Returns:
        The sum, float32.
    """
    if not weight.regularizer or not penalty:
        return tf.cast(gradient, tf.float32)
    return _add_gradient(
        gradient, tf.convert_to_tensor(weight.value), weight.regularizer, float(penalty)
    )


@tf.function(jit_compile=True, autograph=False)
def _add_gradient(gradient, weight, regularizer, penalty):
    with tf.GradientTape() as tape:
        tape.watch(weight)
        regularization_loss = regularizer(weight)
    return tf.cast(gradient, tf.float32) + penalty * tape.gradient(regularization_loss, weight)
