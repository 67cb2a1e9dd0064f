"""DbofModel: deep bag of frames."""

import keras
import tensorflow as tf

from trainer.models import frames, registry
from trainer.models.layers import BatchNorm, Dense, RandomSeeds, VideoModel, normal_initializer

POOLING = {"max": tf.reduce_max, "average": tf.reduce_mean}
ACTIVATIONS = {"sigmoid": tf.sigmoid, "relu6": tf.nn.relu6}


class DbofModel(VideoModel):
    """Sampled frames, projected to a large space, pooled, and classified.

    Samples frames at random in training only.

    Source: Abu-El-Haija et al. 2016, arXiv:1609.08675, section 3.2.

    Args:
        classifier: classifier of the hidden vector.
        iterations: number of frames sampled.
        sample_random_frames: sample frames independently; otherwise a run of consecutive frames.
        cluster_size: size of the layer applied to each frame.
        hidden_size: size of the hidden layer.
        pooling: "max" or "average", over the frames.
        activation: of both layers, "sigmoid" or "relu6".
        add_batch_norm: normalize the input and both layers; otherwise add biases.

    Attributes:
        samples_on_host: whether `sample_frames` is called before a training step, so that only the
            sampled frames are transferred to a GPU.
    """

    samples_on_host = False

    def __init__(
        self,
        classifier,
        iterations: int,
        sample_random_frames: bool,
        cluster_size: int,
        hidden_size: int,
        pooling: str,
        activation: str,
        add_batch_norm: bool,
    ):
        super().__init__(classifier, "dbof_model")
        self.iterations = iterations
        self.sample_random_frames = sample_random_frames
        self.pooling = POOLING[pooling]
        self.activation = ACTIVATIONS[activation]
        self.input_norm = BatchNorm("input_norm") if add_batch_norm else None
        self.cluster = DbofLayer(cluster_size, add_batch_norm, "cluster")
        self.hidden = DbofLayer(hidden_size, add_batch_norm, "hidden")
        with tf.device("CPU:0"):
            self.seeds = RandomSeeds()

    def vector(self, features, num_frames, training):
        if not (training and self.samples_on_host):
            features, num_frames = self.sample_frames(features, num_frames, training)
        values = frames.unit_frames(features, num_frames, training)
        if self.input_norm:
            values = self.input_norm(values, training=training)
        clusters = self.activation(self.cluster(values, training=training))
        pooled = self.pooling(clusters, axis=1)
        return self.activation(self.hidden(pooled, training=training))

    def sample_frames(self, features, num_frames, training=True):
        """Return the features of `iterations` random frames of each video, and their number."""
        indices = self._sample(num_frames, training)
        sampled = tuple(
            tf.gather(part, indices, axis=1, batch_dims=1) for part in frames.parts(features)
        )
        return sampled, tf.minimum(num_frames, 1) * self.iterations

    def _sample(self, num_frames, training):
        """[batch, iterations] int32: indices of the sampled frames."""
        num_frames = tf.maximum(num_frames, 1)[:, None]
        if self.sample_random_frames:
            shape = (tf.shape(num_frames)[0], self.iterations)
            evenly = (tf.range(self.iterations, dtype=tf.float32) + 0.5) / self.iterations
            position = tf.random.stateless_uniform(shape, self.seeds.next()) if training else evenly
            return tf.cast(position * tf.cast(num_frames, tf.float32), tf.int32)
        shape = (tf.shape(num_frames)[0], 1)
        position = tf.random.stateless_uniform(shape, self.seeds.next()) if training else 0.5
        num_starts = tf.maximum(num_frames - self.iterations, 0) + 1
        start = tf.cast(position * tf.cast(num_starts, tf.float32), tf.int32)
        return tf.minimum(start + tf.range(self.iterations), num_frames - 1)


class DbofLayer(keras.layers.Layer):
    """Dense layer without activation, batch-normalized or with a bias, as in the original."""

    def __init__(self, size: int, add_batch_norm: bool, name: str):
        super().__init__(autocast=False, name=name)
        self.projection = Dense(
            size,
            use_bias=not add_batch_norm,
            kernel_initializer=normal_initializer(),
            bias_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="projection",
        )
        self.norm = BatchNorm() if add_batch_norm else None

    def call(self, values, training=False):
        projected = self.projection(values, training=training)
        if self.norm is None:
            return projected
        return self.norm(projected, training=training)


def build(flags: dict) -> DbofModel:
    return DbofModel(
        registry.build_classifier(flags),
        iterations=flags["iterations"],
        sample_random_frames=flags["sample_random_frames"],
        cluster_size=flags["dbof_cluster_size"],
        hidden_size=flags["dbof_hidden_size"],
        pooling=flags["dbof_pooling_method"],
        activation=flags["dbof_activation"],
        add_batch_norm=flags["dbof_add_batch_norm"],
    )
