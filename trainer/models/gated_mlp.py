"""GatedMlpModel: a residual multilayer perceptron with gates, over a video's mean features."""

import keras
import tensorflow as tf

from trainer.data.records import record_format
from trainer.models import registry
from trainer.models.layers import Dense, LayerNorm, RandomSeeds, VideoModel, unit_features

# Most classes are rare: from 0, a bias would need thousands of steps to get there.
INITIAL_BIAS = -7.0


class GatedBlock(keras.layers.Layer):
    """Residual block: x + gate(u) * u, where u is a layer-normalized hidden layer of x.

    Call: [batch, size] float32.
    Returns: [batch, size] float32.
    """

    def __init__(self, size: int, dropout: float, name: str):
        super().__init__(autocast=False, name=name)
        self.dropout = dropout
        self.norm = LayerNorm("norm")
        self.hidden = Dense(size, activation="gelu", name="hidden")
        self.output_layer = Dense(size, name="output")
        self.gate = Dense(size, activation="sigmoid", name="gate")
        self.seeds = RandomSeeds(f"{name}_seeds")

    def build(self, _):
        """Do nothing: layers are built when they are first called."""

    def call(self, x, training=False):
        u = self.hidden(self.norm(x), training=training)
        if training and self.dropout:
            u = tf.nn.experimental.stateless_dropout(u, self.dropout, self.seeds.next())
        u = self.output_layer(u, training=training)
        return x + self.gate(u, training=training) * u


class GatedMlpModel(VideoModel):
    """Normalized features, projected, passed through residual blocks, and classified.

    Each feature (rgb, audio) is scaled to the same length, so that none dominates.

    Args:
        classifier: classifier of the hidden vector.
        sizes: sizes of the features, in the order of their concatenation.
        size: size of the hidden layers.
        num_blocks: number of residual blocks.
        dropout: dropout rate in the blocks and before the classifier.
    """

    def __init__(self, classifier, sizes: list[int], size: int, num_blocks: int, dropout: float):
        super().__init__(classifier, "gated_mlp_model")
        self.sizes = sizes
        self.dropout = dropout
        self.seeds = RandomSeeds()
        self.expand = Dense(size, name="expand")
        self.blocks = [GatedBlock(size, dropout, f"block_{i + 1}") for i in range(num_blocks)]
        self.norm = LayerNorm("norm")

    def vector(self, features, num_frames, training):
        x = self.expand(unit_features(features, self.sizes), training=training)
        for block in self.blocks:
            x = block(x, training=training)
        x = tf.nn.gelu(self.norm(x))
        if training and self.dropout:
            x = tf.nn.experimental.stateless_dropout(x, self.dropout, self.seeds.next())
        return x


def build(flags: dict) -> GatedMlpModel:
    return GatedMlpModel(
        registry.build_classifier(flags, INITIAL_BIAS),
        [feature.size for feature in record_format(flags).features],
        flags["gated_mlp_size"],
        flags["gated_mlp_blocks"],
        flags["gated_mlp_dropout"],
    )
