"""AttentionModel: means of the frames weighted by gated attention."""

import keras
import tensorflow as tf

from trainer.models import pooling
from trainer.models.layers import Dense


class AttentionPooling(keras.layers.Layer):
    """Means of the frames weighted by gated attention, one per head.

    Call: frames [batch, frames, size] float32 and frame_mask [batch, frames] float32.
    Returns: [batch, size * heads] float32.
    Source: Ilse et al. 2018, arXiv:1802.04712, section 2.4.
    """

    def __init__(self, heads: int, name: str, attention_size: int = 128):
        super().__init__(autocast=False, name=name)
        self.heads = heads
        self.features = Dense(attention_size, activation="tanh", name="features")
        self.gate = Dense(attention_size, activation="sigmoid", name="gate")
        self.logits = Dense(heads, use_bias=False, name="logits")

    def call(self, frames, frame_mask, training=False):
        gated = self.features(frames, training=training) * self.gate(frames, training=training)
        logits = self.logits(gated, training=training)  # [batch, frames, heads]
        logits += (frame_mask[..., None] - 1) * 1e9
        weights = tf.nn.softmax(logits, axis=1) * frame_mask[..., None]
        means = tf.matmul(weights, frames, transpose_a=True)  # [batch, heads, size]
        return tf.reshape(means, [-1, self.heads * means.shape[2]])


def build(flags: dict) -> pooling.PoolingModel:
    heads = flags["attention_heads"]
    return pooling.build(flags, lambda name: AttentionPooling(heads, name), "attention_model")
