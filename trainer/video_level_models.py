"""Models of a video's mean features, and the classifiers that frame-level models end in.

A video-level model is called with features [batch, width] float32. A classifier is called with any
vector, [batch, size] float32. Both return probabilities, [batch, num_classes] float32.
Definitions: video_level_models.py of google/youtube-8m.
"""

import keras
import tensorflow as tf

from trainer.fusion import fused

# The original's 1e-8 * sum(w^2) / 2; keras leaves out the half.
L2 = keras.regularizers.L2(0.5e-8)


def normalized(features: tf.Tensor) -> tf.Tensor:
    """Vectors scaled to length 1 over the last axis, all of a video's features together."""
    return tf.nn.l2_normalize(features, axis=-1, epsilon=1e-12)


class Logistic(keras.layers.Layer):
    """A logistic unit a class.

    Source: Abu-El-Haija et al. 2016, arXiv:1609.08675, section 4.
    """

    def __init__(self, num_classes: int):
        super().__init__(autocast=False)
        self.classes = keras.layers.Dense(num_classes, kernel_regularizer=L2, name="classes")

    def call(self, vector, training=False):
        return tf.sigmoid(tf.cast(self.classes(vector), tf.float32))


class Moe(keras.layers.Layer):
    """A mixture of logistic experts a class, each trusted as far as the class' gate says.

    For class c of an input x, with gate weights g, expert weights e and biases b, and M experts:

        p_c = sum over m < M of softmax(x g_c)_m * sigmoid(x e_cm + b_cm)

    The softmax has an M + 1st entry, for an expert that always says no. Gates have no bias.

    Source: Jordan and Jacobs 1994, "Hierarchical mixtures of experts and the EM algorithm";
        Abu-El-Haija et al. 2016, arXiv:1609.08675, section 4.
    """

    def __init__(self, num_classes: int, num_mixtures: int):
        super().__init__(autocast=False)
        self.num_classes = num_classes
        self.num_mixtures = num_mixtures
        self.gates = keras.layers.Dense(
            num_classes * (num_mixtures + 1), use_bias=False, kernel_regularizer=L2, name="gates"
        )
        self.experts = keras.layers.Dense(
            num_classes * num_mixtures, kernel_regularizer=L2, name="experts"
        )

    def call(self, vector, training=False):
        mix = mixture if training else _mixture
        return mix(self.gates(vector), self.experts(vector), self.num_mixtures)

    def trust(self, vector):
        """[batch, num_mixtures + 1, num_classes]: how far each class trusts each expert.

        Sums to 1 over the experts, of which the last is the one that always says no.
        """
        return tf.nn.softmax(_by_expert(self.gates(vector), self.num_mixtures + 1), axis=1)


def _by_expert(scores, num_experts):
    """[batch, num_experts, num_classes] float32.

    Classes lie innermost, so that sums over the few experts are vector operations.
    """
    num_classes = scores.shape[1] // num_experts
    return tf.cast(tf.reshape(scores, [-1, num_experts, num_classes]), tf.float32)


def _mixture(gates, experts, num_mixtures):
    """Probabilities [batch, num_classes] from the scores of gates and experts."""
    trust = tf.nn.softmax(_by_expert(gates, num_mixtures + 1), axis=1)[:, :num_mixtures]
    return tf.reduce_sum(trust * tf.sigmoid(_by_expert(experts, num_mixtures)), axis=1)


_fused_mixture = fused(_mixture)


@tf.custom_gradient
def mixture(gates, experts, num_mixtures):
    """As `_mixture`, in one pass over the scores, and another for their gradients."""
    predictions = _fused_mixture(gates, experts, num_mixtures)

    def gradient(upstream):
        return *_mixture_gradient(gates, experts, predictions, upstream, num_mixtures), None

    return predictions, gradient


@fused
def _mixture_gradient(gates, experts, predictions, upstream, num_mixtures):
    """The gradients of the scores, from that of the predictions, in the scores' type."""
    trust = tf.nn.softmax(_by_expert(gates, num_mixtures + 1), axis=1)
    says = tf.sigmoid(_by_expert(experts, num_mixtures))
    upstream, predictions = upstream[:, None], predictions[:, None]
    of_experts = upstream * trust[:, :num_mixtures] * says * (1 - says)
    always_no = tf.zeros_like(predictions)
    of_gates = upstream * trust * (tf.concat([says, always_no], axis=1) - predictions)
    return (
        tf.cast(tf.reshape(of_gates, gates.shape), gates.dtype),
        tf.cast(tf.reshape(of_experts, experts.shape), experts.dtype),
    )


class LogisticModel(keras.Model):
    """Logistic on the video's features."""

    def __init__(self, num_classes: int):
        super().__init__(autocast=False)
        self.classifier = Logistic(num_classes)

    def call(self, features, training=False):
        return self.classifier(normalized(features), training=training)


class MoeModel(keras.Model):
    """Moe on the video's features."""

    def __init__(self, num_classes: int, num_mixtures: int):
        super().__init__(autocast=False)
        self.classifier = Moe(num_classes, num_mixtures)

    def call(self, features, training=False):
        return self.classifier(normalized(features), training=training)
