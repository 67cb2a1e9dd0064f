"""Models of a video's mean features, and the classifiers that frame-level models end in.

A video-level model is called with features [batch, width] float32. A classifier is called with any
vector, [batch, size] float32. Both return probabilities, [batch, num_classes] float32.
Definitions: video_level_models.py of google/youtube-8m.
"""

import keras
import tensorflow as tf

from trainer.fusion import Dense, float32, fused, in_type

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
        self.classes = Dense(
            num_classes, activation="sigmoid", kernel_regularizer=L2, name="classes"
        )

    def call(self, vector, training=False):
        return self.classes(vector)


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
        self.gates = Dense(
            num_classes * (num_mixtures + 1), use_bias=False, kernel_regularizer=L2, name="gates"
        )
        self.experts = Dense(
            num_classes * num_mixtures, activation="sigmoid", kernel_regularizer=L2, name="experts"
        )

    def call(self, vector, training=False):
        if training:
            gates = _by_expert(self.gates.product(vector), self.num_mixtures + 1)
            says = _by_expert(self.experts(vector, training=True), self.num_mixtures)
            return mixture(gates, says)
        gates, says = self.opinions(vector)
        return tf.reduce_sum(tf.nn.softmax(gates, axis=1)[:, :-1] * says, axis=1)

    def opinions(self, vector):
        """What gates and experts say of each class.

        Returns:
            [batch, num_mixtures + 1, num_classes], the gates' scores; their softmax over the
            experts is how far each is trusted, the last being the one that always says no.
            [batch, num_mixtures, num_classes], the experts' probabilities.
        """
        gates = _by_expert(self.gates(vector), self.num_mixtures + 1)
        return gates, _by_expert(self.experts(vector), self.num_mixtures)


def _by_expert(scores, num_experts):
    """[batch, num_experts, num_classes].

    Classes lie innermost, so that sums over the few experts are vector operations.
    """
    return tf.reshape(scores, [-1, num_experts, scores.shape[1] // num_experts])


@tf.custom_gradient
def mixture(gates, says):
    """Probabilities [batch, num_classes], and their gradient, in few passes over memory.

    Args:
        gates: [batch, num_mixtures + 1, num_classes], the gates' scores, float32 or bfloat16.
        says: [batch, num_mixtures, num_classes], the experts' probabilities, float32.
    """
    # The softmax relative to the last expert, who always says no: of e^(a - a_last).
    ratios = _ratios(gates)
    predictions, last_trust = _predictions(ratios, says)

    def gradient(upstream):
        scaled = last_trust * upstream
        of_gates = _gates_gradient(ratios, says, predictions, scaled, gates.dtype)
        return of_gates, _says_gradient(ratios, scaled)

    return predictions, gradient


@fused
def _ratios(gates):
    gates = float32(gates)
    return tf.exp(tf.minimum(gates[:, :-1] - gates[:, -1:], 80.0))  # e^80 is finite, in a sum too


@fused
def _predictions(ratios, says):
    last_trust = 1 / (1 + tf.add_n(tf.unstack(ratios, axis=1)))
    return last_trust * tf.add_n(tf.unstack(ratios * says, axis=1)), last_trust


@fused
def _gates_gradient(ratios, says, predictions, scaled, dtype):
    ratios = tf.concat([ratios, tf.ones_like(ratios[:, :1])], axis=1)
    says = tf.concat([says, tf.zeros_like(says[:, :1])], axis=1)
    return in_type(scaled[:, None] * ratios * (says - predictions[:, None]), dtype)


@fused
def _says_gradient(ratios, scaled):
    return scaled[:, None] * ratios


class VideoModel(keras.Model):
    """A vector that a subclass makes of a video, `vector`, and a classifier of it."""

    def __init__(self, classifier: Logistic | Moe):
        super().__init__(autocast=False)
        self.classifier = classifier

    def call(self, features, num_frames=None, training=False):
        vector = self.vector(features, num_frames, training)
        return self.classifier(vector, training=training)


class VideoLevelModel(VideoModel):
    """A classifier of the video's mean features: LogisticModel or MoeModel."""

    def vector(self, features, num_frames, training):
        return normalized(features)
