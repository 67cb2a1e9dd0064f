"""The architectures. Each takes raw features and returns the probability of every class.

A video-level model is called with features [batch, width] float32 and returns [batch,
num_classes] float32. Definitions: video_level_models.py of google/youtube-8m.
"""

import keras
import tensorflow as tf

from trainer.config import record_format
from trainer.errors import UserError

# The original's 1e-8 * sum(w^2) / 2; keras leaves out the half.
L2 = keras.regularizers.L2(0.5e-8)


def normalized(features: tf.Tensor) -> tf.Tensor:
    """Features scaled to length 1 over the last axis, all of a video's together."""
    return tf.nn.l2_normalize(features, axis=-1, epsilon=1e-12)


class LogisticModel(keras.Model):
    """A logistic unit a class on the video's features.

    Source: Abu-El-Haija et al. 2016, arXiv:1609.08675, section 4.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.classes = keras.layers.Dense(num_classes, kernel_regularizer=L2, name="classes")

    def call(self, features):
        return tf.sigmoid(self.classes(normalized(features)))


class MoeModel(keras.Model):
    """A mixture of logistic experts a class, each trusted as far as the class' gate says.

    For class c, with gate weights g and expert weights e, and M experts:

        p_c = sum over m < M of softmax(x g_c)_m * sigmoid(x e_cm + b_cm)

    The softmax has an M + 1st entry, for an expert that always says no. Gates have no bias.

    Source: Jordan and Jacobs 1994; Abu-El-Haija et al. 2016, arXiv:1609.08675, section 4.
    """

    def __init__(self, num_classes: int, num_mixtures: int):
        super().__init__()
        self.num_classes = num_classes
        self.num_mixtures = num_mixtures
        self.gates = keras.layers.Dense(
            num_classes * (num_mixtures + 1), use_bias=False, kernel_regularizer=L2, name="gates"
        )
        self.experts = keras.layers.Dense(
            num_classes * num_mixtures, kernel_regularizer=L2, name="experts"
        )

    def call(self, features):
        features = normalized(features)
        # Classes lie innermost, so that the softmax over the few experts is a vector operation.
        gates = tf.reshape(self.gates(features), [-1, self.num_mixtures + 1, self.num_classes])
        experts = tf.reshape(self.experts(features), [-1, self.num_mixtures, self.num_classes])
        trust = tf.nn.softmax(gates, axis=1)[:, : self.num_mixtures]
        return tf.reduce_sum(trust * tf.sigmoid(experts), axis=1)


# Every model that --model can name. To add one: write the class, add a line, and name the flags
# that shape it in config.MODEL_FLAGS.
MODELS = {
    "LogisticModel": lambda flags: LogisticModel(flags["num_classes"]),
    "MoeModel": lambda flags: MoeModel(flags["num_classes"], flags["moe_num_mixtures"]),
}


def create(model_flags: dict) -> keras.Model:
    """The model that `model_flags` (config.MODEL_FLAGS, name -> value) describe, with its weights.

    Raises:
        UserError: there is no such model, or it does not take features of this kind.
    """
    name = model_flags["model"]
    if name not in MODELS:
        raise UserError(f"--model must be one of {sorted(MODELS)}; got {name!r}.")
    if model_flags["frame_features"]:
        raise UserError(
            f"--model={name} takes video-level features; got --frame_features. Frame-level models "
            "are not part of this version."
        )
    model = MODELS[name](model_flags)
    model(tf.zeros([1, record_format(model_flags).width]))
    return model


def predict(model: keras.Model, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Probabilities [batch, num_classes], from reading.model_inputs of a batch."""
    return model(inputs["features"], training=False)
