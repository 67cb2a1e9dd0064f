"""Models of a video's mean features, and the classifiers that frame-level models end in.

A video-level model is called with features [batch, width] float32. A classifier is called with any
vector, [batch, size] float32. Both return probabilities, [batch, num_classes] float32.
Definitions: video_level_models.py of google/youtube-8m.

In training a classifier is not called: the step differentiates its `scores`, the matrix products,
alone; what comes after them is `learn`, with the loss' gradient in it, in few passes over memory:

    learn(scores, labels, loss, weight) -> gradients of weight * sum(loss) by the scores

with loss as in losses.py, labels [batch, n] int32, a row's classes, then -1, and a scalar weight.
Its probabilities, which are looked at now and then, are `predictions` of the scores.
"""

import keras
import tensorflow as tf

from trainer.models.fusion import Dense, float32, fused, in_turn, in_type, sum_of_rows
from trainer.training.losses import Loss, dense

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

    def predictions(self, scores) -> tf.Tensor:
        product, bias = scores
        return tf.sigmoid(float32(product) + bias)

    def learn(self, scores, labels, loss: Loss, weight) -> list[tf.Tensor]:
        product, bias = scores
        of_product = _learn_logistic(product, bias, labels, loss, weight)
        return [of_product, sum_of_rows(of_product)]


@fused
def _learn_logistic(product, bias, labels, loss, weight):
    predictions = tf.sigmoid(float32(product) + bias)
    slopes = loss.slopes(predictions, dense(labels, predictions.shape[1]))
    return in_type(weight * slopes * predictions * (1 - predictions), product.dtype)


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
        return _mixture(*self.opinions(vector))

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

    def predictions(self, scores) -> tf.Tensor:
        gates, experts, bias = scores
        return _mixture(float32(gates), _says(experts, bias))

    def learn(self, scores, labels, loss: Loss, weight) -> list[tf.Tensor]:
        gates, experts, bias = scores
        # What is cheap to compute again is not kept: memory is what this waits for.
        ratios, predictions = _ratios_and_predictions(gates, experts, bias)
        scaled = _scaled_slopes(ratios, predictions, labels, loss, weight)
        of_gates = _gates_gradient(ratios, experts, bias, predictions, scaled, gates.dtype)
        of_experts = _experts_gradient(ratios, experts, bias, scaled)
        return [of_gates, of_experts, sum_of_rows(of_experts)]


def _mixture(gates, says):
    return tf.reduce_sum(tf.nn.softmax(gates, axis=1)[:, :-1] * says, axis=1)


def _by_expert(scores, num_experts):
    """[batch, num_experts, num_classes].

    Classes lie innermost, so that sums over the few experts are vector operations.
    """
    return tf.reshape(scores, [-1, num_experts, scores.shape[1] // num_experts])


def _says(experts, bias):
    return tf.sigmoid(float32(experts) + bias)


def _last_trust(ratios):
    """How far the last expert is trusted."""
    return 1 / (1 + tf.add_n(tf.unstack(ratios, axis=1)))


@fused
def _ratios_and_predictions(gates, experts, bias):
    """The softmax relative to the last expert, who always says no, e^(a - a_last); the mixture."""
    gates = float32(gates)
    ratios = tf.exp(tf.minimum(gates[:, :-1] - gates[:, -1:], 80.0))  # finite, in a sum too
    opinions = tf.unstack(ratios * _says(experts, bias), axis=1)
    return ratios, _last_trust(ratios) * tf.add_n(opinions)


@fused
def _scaled_slopes(ratios, predictions, labels, loss, weight):
    slopes = loss.slopes(predictions, dense(labels, predictions.shape[1]))
    return weight * slopes * _last_trust(ratios)


@fused
def _gates_gradient(ratios, experts, bias, predictions, scaled, dtype):
    says = _says(experts, bias)
    ratios = tf.concat([ratios, tf.ones_like(ratios[:, :1])], axis=1)
    says = tf.concat([says, tf.zeros_like(says[:, :1])], axis=1)
    return in_type(scaled[:, None] * ratios * (says - predictions[:, None]), dtype)


@fused
def _experts_gradient(ratios, experts, bias, scaled):
    says = _says(experts, bias)
    return in_type(scaled[:, None] * ratios * says * (1 - says), experts.dtype)


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
