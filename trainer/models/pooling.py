"""Base of the models that pool the frames of each feature: NetVLAD, NeXtVLAD, attention."""

from collections.abc import Callable

import keras
import tensorflow as tf

from trainer.data.records import record_format
from trainer.models import frames, registry
from trainer.models.layers import BatchNorm, Dense, RandomSeeds, VideoModel


class ContextGating(keras.layers.Layer):
    """Gate each entry of a vector x by all of them: x * sigmoid(norm(x W)).

    Source: Miech et al. 2017, arXiv:1706.06905, section 3.1.
    """

    def __init__(self, name="gating"):
        super().__init__(autocast=False, name=name)
        self.norm = BatchNorm()

    def build(self, shape):
        self.projection = Dense(shape[-1], use_bias=False, name="projection")

    def call(self, vector, training=False):
        logits = self.norm(self.projection(vector, training=training), training=training)
        return vector * tf.sigmoid(logits)


class PoolingModel(VideoModel):
    """The frames of each feature pooled into a vector; these projected, gated and classified.

    Args:
        classifier: classifier of the gated hidden vector.
        sizes: sizes of the features, in the order of their concatenation.
        poolings: a layer per feature, called with frames [batch, frames, size] and their mask
            [batch, frames], float32.
        hidden_size: size of the hidden layer.
        dropout: dropout rate of the pooled vector.
        name: name of the model.
    """

    def __init__(
        self,
        classifier,
        sizes: list[int],
        poolings: list[keras.layers.Layer],
        hidden_size: int,
        dropout: float,
        name: str,
    ):
        super().__init__(classifier, name)
        self.sizes = sizes
        self.poolings = poolings
        self.dropout = dropout
        self.seeds = RandomSeeds()
        self.hidden = Dense(hidden_size, use_bias=False, name="hidden")
        self.norm = BatchNorm()
        self.gating = ContextGating()

    def vector(self, features, num_frames, training):
        values = frames.unit_frames(features, num_frames, training)
        mask = frames.mask(features, num_frames)
        pooled = [
            pooling(part, mask, training=training)
            for pooling, part in zip(
                self.poolings, tf.split(values, self.sizes, axis=2), strict=True
            )
        ]
        vector = tf.concat(pooled, axis=1)
        if training and self.dropout:
            vector = tf.nn.experimental.stateless_dropout(vector, self.dropout, self.seeds.next())
        hidden = self.hidden(vector, training=training)
        hidden = tf.nn.relu6(self.norm(hidden, training=training))
        return self.gating(hidden, training=training)


def build(flags: dict, pooling: Callable[[str], keras.layers.Layer], name: str) -> PoolingModel:
    """Build the model called `name`; `pooling` creates a pooling layer of a given name."""
    features = record_format(flags).features
    return PoolingModel(
        registry.build_classifier(flags),
        [feature.size for feature in features],
        [pooling(f"pooling_{number}") for number in range(1, len(features) + 1)],
        flags["pooling_hidden_size"],
        flags["pooling_dropout"],
        name,
    )
