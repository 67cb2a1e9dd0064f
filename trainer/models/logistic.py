"""LogisticModel: a logistic unit per class over a video's mean features."""

import keras
import tensorflow as tf

from trainer.models.layers import L2, Dense, VideoModel, l2_normalize


class Logistic(keras.layers.Layer):
    """Classifier with a logistic unit per class.

    Call: vector [batch, size] float32.
    Returns: product [batch, num_classes] and bias [num_classes]. Their sum, which is left to
        `head`, is the logits.
    Source: Abu-El-Haija et al. 2016, arXiv:1609.08675, section 4.
    """

    def __init__(self, num_classes: int, initial_bias: float = 0.0):
        super().__init__(autocast=False, name="logistic")
        bias = keras.initializers.Constant(initial_bias)
        self.classes = Dense(
            num_classes, kernel_regularizer=L2, bias_initializer=bias, name="classes"
        )

    def build(self, shape):
        self.classes.build(shape)

    def call(self, vector, training=False):
        bias = tf.convert_to_tensor(self.classes.bias.value)
        return self.classes.matmul(vector, training), bias

    def head(self, outputs) -> tf.Tensor:
        """Probabilities, [batch, num_classes] float32."""
        product, bias = outputs
        return tf.sigmoid(product + bias)


class VideoLevelModel(VideoModel):
    """A classifier of a video's mean features, normalized jointly: LogisticModel or MoeModel."""

    def vector(self, features, num_frames, training):
        return l2_normalize(features)


def build_classifier(flags: dict, initial_bias: float = 0.0) -> Logistic:
    return Logistic(flags["num_classes"], initial_bias)


def build(flags: dict) -> VideoLevelModel:
    return VideoLevelModel(build_classifier(flags), "logistic_model")
