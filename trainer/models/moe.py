"""MoeModel: a mixture of logistic experts per class over a video's mean features."""

import functools

import keras
import tensorflow as tf

from trainer.models.layers import L2, Dense
from trainer.models.logistic import VideoLevelModel


class Moe(keras.layers.Layer):
    """Classifier with a mixture of logistic experts per class.

    For class c of an input x, with gate weights g, expert weights e, biases b and M experts:

        p_c = sum over m < M of softmax(x g_c)_m * sigmoid(x e_cm + b_cm)

    The softmax has an M + 1st entry, for a dummy expert that always predicts 0. Gates have no bias.

    Call: vector [batch, size] float32.
    Returns: gate logits [batch, M + 1, num_classes], the dummy expert last; and expert products
        [batch, M, num_classes] and biases [M, num_classes]. The sum of these two, which is left to
        `head`, is the expert logits.
    Source: Jordan and Jacobs 1994, "Hierarchical mixtures of experts and the EM algorithm";
        Abu-El-Haija et al. 2016, arXiv:1609.08675, section 4.
    """

    def __init__(self, num_classes: int, num_mixtures: int, initial_bias: float = 0.0):
        super().__init__(autocast=False, name="moe")
        self.num_classes = num_classes
        self.num_mixtures = num_mixtures
        self.gates = Dense(
            num_classes * (num_mixtures + 1), use_bias=False, kernel_regularizer=L2, name="gates"
        )
        self.experts = Dense(
            num_classes * num_mixtures,
            kernel_regularizer=L2,
            bias_initializer=keras.initializers.Constant(initial_bias),
            name="experts",
        )

    def build(self, shape):
        self.gates.build(shape)
        self.experts.build(shape)

    def call(self, vector, training=False):
        # Classes are innermost, so that sums over the few experts are vector operations.
        shape = [self.num_mixtures, self.num_classes]
        return (
            tf.reshape(
                self.gates.matmul(vector, training), [-1, self.num_mixtures + 1, self.num_classes]
            ),
            tf.reshape(self.experts.matmul(vector, training), [-1, *shape]),
            tf.reshape(tf.convert_to_tensor(self.experts.bias.value), shape),
        )

    def mixture(self, outputs) -> tuple[tf.Tensor, tf.Tensor]:
        """Gate probabilities [batch, M + 1, num_classes], and the experts' probabilities.

        The latter are [batch, M, num_classes] float32.
        """
        gate_logits, expert_products, expert_biases = outputs
        return tf.nn.softmax(gate_logits, axis=1), tf.sigmoid(expert_products + expert_biases)

    def head(self, outputs) -> tf.Tensor:
        """Probabilities, [batch, num_classes] float32."""
        gate_logits, expert_products, expert_biases = outputs
        # As in `mixture`, but XLA is slow at tf.nn.softmax over an axis that is not the last one.
        largest = functools.reduce(tf.maximum, tf.unstack(gate_logits, axis=1))
        gates = tf.exp(gate_logits - tf.stop_gradient(largest)[:, None])
        experts = tf.sigmoid(expert_products + expert_biases)
        return tf.reduce_sum(gates[:, :-1] * experts, axis=1) / tf.reduce_sum(gates, axis=1)


def build_classifier(flags: dict, initial_bias: float = 0.0) -> Moe:
    return Moe(flags["num_classes"], flags["moe_num_mixtures"], initial_bias)


def build(flags: dict) -> VideoLevelModel:
    return VideoLevelModel(build_classifier(flags), "moe_model")
