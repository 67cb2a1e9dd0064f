"""Models of a video's mean features, and the classifiers that frame-level models end in.

A video-level model is called with features [batch, width] float32. A classifier is called with any
vector, [batch, size] float32. Both return probabilities, [batch, num_classes] float32.
Definitions: video_level_models.py of google/youtube-8m.

In training a classifier is not called: the step differentiates its `scores`, the matrix products,
alone; what comes after them is `learn`, with the loss' gradient in it, in few passes over memory:

    learn(scores, labels, loss, weight) -> probabilities, gradients of weight * sum(loss) by scores

with labels and loss as in losses.py, and a scalar weight.
"""

import keras
import tensorflow as tf

from trainer.fusion import Dense, float32, fused, in_turn, in_type, sum_of_rows
from trainer.losses import Loss

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

    def call(self, vector):
        return self.classes(vector)

    def scores(self, vector) -> list[tf.Tensor]:
        """The product [batch, num_classes], float32 or bfloat16; the bias [num_classes]."""
        return [self.classes.product(vector), tf.identity(self.classes.bias.value)]

    def learn(self, scores, labels, loss: Loss, weight) -> tuple[tf.Tensor, list[tf.Tensor]]:
        product, bias = scores
        predictions, of_product = _learn_logistic(product, bias, labels, loss, weight)
        return predictions, [of_product, sum_of_rows(of_product)]


@fused
def _learn_logistic(product, bias, labels, loss, weight):
    predictions = tf.sigmoid(float32(product) + bias)
    factor = weight * predictions * (1 - predictions)
    return predictions, in_type(loss.gradient(predictions, labels, factor), product.dtype)


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

    def call(self, vector):
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

    def scores(self, vector) -> list[tf.Tensor]:
        """The gates' product, the experts' product, and the experts' bias.

        Returns:
            [batch, num_mixtures + 1, num_classes] and [batch, num_mixtures, num_classes], float32
            or bfloat16; [num_mixtures, num_classes] float32.
        """
        gates = self.gates.product(vector)
        gates, kernel = in_turn(gates, self.experts.kernel.value)
        experts = self.experts.product(vector, kernel)
        shape = (self.num_mixtures, self.num_classes)
        return [
            _by_expert(gates, self.num_mixtures + 1),
            _by_expert(experts, self.num_mixtures),
            tf.reshape(self.experts.bias.value, shape),
        ]

    def learn(self, scores, labels, loss: Loss, weight) -> tuple[tf.Tensor, list[tf.Tensor]]:
        gates, experts, bias = scores
        ratios, says = _ratios(gates), _says(experts, bias)
        predictions, last_trust = _predictions(ratios, says)
        scaled = _scaled_gradient(predictions, last_trust, labels, loss, weight)
        of_gates = _gates_gradient(ratios, says, predictions, scaled, gates.dtype)
        of_experts = _experts_gradient(ratios, says, scaled, experts.dtype)
        return predictions, [of_gates, of_experts, sum_of_rows(of_experts)]


def _by_expert(scores, num_experts):
    """[batch, num_experts, num_classes].

    Classes lie innermost, so that sums over the few experts are vector operations.
    """
    return tf.reshape(scores, [-1, num_experts, scores.shape[1] // num_experts])


@fused
def _ratios(gates):
    """The softmax relative to the last expert, who always says no: of e^(a - a_last)."""
    gates = float32(gates)
    return tf.exp(tf.minimum(gates[:, :-1] - gates[:, -1:], 80.0))  # e^80 is finite, in a sum too


@fused
def _says(experts, bias):
    return tf.sigmoid(float32(experts) + bias)


@fused
def _predictions(ratios, says):
    last_trust = 1 / (1 + tf.add_n(tf.unstack(ratios, axis=1)))
    return last_trust * tf.add_n(tf.unstack(ratios * says, axis=1)), last_trust


@fused
def _scaled_gradient(predictions, last_trust, labels, loss, weight):
    return loss.gradient(predictions, labels, weight * last_trust)


@fused
def _gates_gradient(ratios, says, predictions, scaled, dtype):
    ratios = tf.concat([ratios, tf.ones_like(ratios[:, :1])], axis=1)
    says = tf.concat([says, tf.zeros_like(says[:, :1])], axis=1)
    return in_type(scaled[:, None] * ratios * (says - predictions[:, None]), dtype)


@fused
def _experts_gradient(ratios, says, scaled, dtype):
    return in_type(scaled[:, None] * ratios * says * (1 - says), dtype)


class VideoModel(keras.Model):
    """A vector that a subclass makes of a video, `vector`, and a classifier of it."""

    def __init__(self, classifier: Logistic | Moe):
        super().__init__(autocast=False)
        self.classifier = classifier

    def call(self, features, num_frames=None):
        return self.classifier(self.vector(features, num_frames, training=False))

    def scores(self, features, num_frames=None) -> list[tf.Tensor]:
        """In training, what `classifier.learn` learns from."""
        return self.classifier.scores(self.vector(features, num_frames, training=True))


class VideoLevelModel(VideoModel):
    """A classifier of the video's mean features: LogisticModel or MoeModel."""

    def vector(self, features, num_frames, training):
        return normalized(features)
