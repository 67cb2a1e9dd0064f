"""The regularization loss, and its gradient."""

import tensorflow as tf

from trainer.models.fusion import fused

ops = tf.raw_ops


class Regularization:
    """What pulls weights towards 0: decay * sum(weight^2) / 2, summed over the weights.

    Args:
        weights: float32.
        decays: of each weight; 0: nothing pulls at it.
    """

    def __init__(self, weights: list[tf.Variable], decays: list[float]):
        self.weights = weights
        self.decays = decays
        # Where a gradient lies while this one's is added to it; empty between two steps.
        self.places = [
            tf.Variable(tf.zeros([0]), shape=tf.TensorShape(None), trainable=False) for _ in weights
        ]

    def loss(self) -> tf.Tensor:
        """A scalar, float32."""
        pairs = zip(self.weights, self.decays, strict=True)
        return tf.add_n([decay * tf.nn.l2_loss(weight) for weight, decay in pairs])

    def added_to(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """The sum of other gradients by the weights, float32 or bfloat16, and this loss': float32.

        Inside a step.
        """
        # After all products: beside one, a pass over memory hinders it more than it costs alone.
        with tf.control_dependencies(gradients):
            return [
                _sum(gradient, weight, decay, place) if decay else tf.cast(gradient, tf.float32)
                for gradient, weight, decay, place in zip(
                    gradients, self.weights, self.decays, self.places, strict=True
                )
            ]


def _sum(gradient, weight, decay, place):
    if gradient.dtype == tf.bfloat16:
        return _sum_in_float32(gradient, weight, decay)
    # In place, because memory is what this waits for. Assigning does not copy.
    ops.AssignVariableOp(resource=place.handle, value=gradient)
    ops.ResourceApplyGradientDescent(var=place.handle, alpha=-decay, delta=weight)
    result = ops.ReadVariableOp(resource=place.handle, dtype=tf.float32)
    ops.AssignVariableOp(resource=place.handle, value=tf.zeros([0]))
    return tf.ensure_shape(result, gradient.shape)


@fused
def _sum_in_float32(gradient, weight, decay):
    return tf.cast(gradient, tf.float32) + decay * weight
