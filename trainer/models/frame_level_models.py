"""Models of a video's frames.

Each is called with
    features: [batch, frames, width] uint8, quantised as records.py says, zeros after a video's end;
        or a tuple of its parts, a feature's frames each;
    num_frames: [batch] int32, how many of a video's frames are real;
and returns probabilities, [batch, num_classes] float32. DbofModel, FrameLevelLogisticModel and
LstmModel are those of google/youtube-8m, frame_level_models.py; the others came after it.

Where a model draws frames at random, it does so in training only: a trained model always says the
same of the same video.
"""

import random

import keras
import tensorflow as tf

from trainer.models import frames
from trainer.models.fusion import Dense, Float32Weights
from trainer.models.recurrence import Gru, Lstm
from trainer.models.video_level_models import VideoModel, normalized
from trainer.training import distribution


def normal() -> keras.initializers.Initializer:
    """Normal, with the standard deviation 1 / sqrt(length of the input).

    Another one for each layer, made when the trainer has set the seed: an initializer draws its
    own seed when it is made.
    """
    return keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")


class FrameLevelLogisticModel(VideoModel):
    """A classifier of the mean of the frames."""

    def vector(self, features, num_frames, training):
        total = frames.total(features, num_frames, training)
        return total / tf.cast(tf.maximum(num_frames, 1), tf.float32)[:, None]


class BatchNorm(Float32Weights, keras.layers.Layer):
    """Batch normalisation whose moving averages are right after a few steps.

    A moving average with decay 0.999, as the original has it, needs thousands of steps to forget
    its start. Here the n-th update decays by min(0.999, n / (n + 1)): at first a plain mean.

    Call: [..., size] float32, normalised over all axes but the last.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    DECAY = 0.999
    EPSILON = 0.001

    def __init__(self):
        super().__init__(autocast=False)

    def build(self, shape):
        size = (shape[-1],)
        self.gamma = self.add_weight(shape=size, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=size, initializer="zeros", name="beta")
        self.mean = self.add_weight(shape=size, initializer="zeros", trainable=False, name="mean")
        self.variance = self.add_weight(
            shape=size, initializer="ones", trainable=False, name="variance"
        )
        self.updates = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="updates"
        )

    def call(self, values, training=False):
        mean, variance = self.mean.value, self.variance.value
        if training:
            mean, variance = _moments(values)
            self._follow(mean, variance)
        return tf.nn.batch_normalization(
            values, mean, variance, self.beta.value, self.gamma.value, self.EPSILON
        )

    def _follow(self, mean, variance):
        """Moves the averages, unless the batch is not finite: they must not become NaN."""
        decay = tf.minimum(self.DECAY, self.updates.value / (self.updates.value + 1))
        finite = tf.reduce_all(tf.math.is_finite(mean + variance))
        for average, now in ((self.mean, mean), (self.variance, variance)):
            moved = decay * average.value + (1 - decay) * now
            distribution.assign(average.value, tf.where(finite, moved, average.value))
        distribution.assign(self.updates.value, self.updates.value + tf.cast(finite, tf.float32))


def _moments(values):
    """Mean and variance, [size] each, over all axes but the last and over all replicas."""
    axes = list(range(len(values.shape) - 1))
    count = tf.cast(tf.size(values) // values.shape[-1], tf.float32)
    count, sums = distribution.total([count, tf.reduce_sum(values, axes)])
    mean = sums / tf.maximum(count, 1)
    squares = distribution.total(tf.reduce_sum(tf.math.squared_difference(values, mean), axes))
    return mean, squares / tf.maximum(count, 1)


class Draws(keras.layers.Layer):
    """Random numbers that a checkpoint can go on with, other ones on each replica."""

    def __init__(self):
        super().__init__(autocast=False)
        first = random.getrandbits(31)  # of the generator that the trainer has seeded
        self.state = self.add_weight(
            shape=(),
            dtype="int64",
            initializer=lambda *_, **__: tf.constant(first, tf.int64),
            trainable=False,
            name="draws",
        )

    def seed(self):
        """[2] int64, for TensorFlow's stateless functions; another one each time."""
        distribution.assign(self.state.value, self.state.value + 1)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.stack([self.state.value, tf.cast(replica, tf.int64)])


class DbofModel(VideoModel):
    """Deep bag of frames: some frames, projected to a large space, pooled, and classified.

    Source: Abu-El-Haija et al. 2016, arXiv:1609.08675, section 3.2.

    Args:
        classifier: what the hidden vector is classified by.
        iterations: how many frames are looked at.
        sample_random_frames: train on frames drawn one by one; else on a run of frames.
        cluster_size, hidden_size: lengths of the projected frame and of the hidden vector.
        pooling: "max" or "average", over the frames.
        activation: of both layers, "sigmoid" or "relu6".
        add_batch_norm: normalise the input and both layers; else add biases.
    """

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
        super().__init__(classifier)
        self.iterations = iterations
        self.sample_random_frames = sample_random_frames
        self.pooling = {"max": tf.reduce_max, "average": tf.reduce_mean}[pooling]
        self.activation = {"sigmoid": tf.sigmoid, "relu6": tf.nn.relu6}[activation]
        self.input_norm = BatchNorm() if add_batch_norm else (lambda values, training: values)
        self.cluster = DbofLayer(cluster_size, add_batch_norm)
        self.hidden = DbofLayer(hidden_size, add_batch_norm)
        self.draws = Draws()
        self.built = True  # as far as it can be, before its layers see their inputs

    def vector(self, features, num_frames, training):
        numbers = self._chosen(num_frames, training)
        chosen = [tf.gather(part, numbers, axis=1, batch_dims=1) for part in frames.parts(features)]
        vectors = frames.vectors(
            tuple(chosen), tf.minimum(num_frames, 1) * self.iterations, training
        )
        vectors = self.input_norm(vectors, training=training)
        clusters = self.activation(self.cluster(vectors, training=training))
        pooled = self.pooling(clusters, axis=1)
        return self.activation(self.hidden(pooled, training=training))

    def _chosen(self, num_frames, training):
        """[batch, iterations] int32: the numbers of the frames to look at."""
        num_frames = tf.maximum(num_frames, 1)[:, None]
        if self.sample_random_frames:
            shape = (tf.shape(num_frames)[0], self.iterations)
            evenly = (tf.range(self.iterations, dtype=tf.float32) + 0.5) / self.iterations
            place = tf.random.stateless_uniform(shape, self.draws.seed()) if training else evenly
            return tf.cast(place * tf.cast(num_frames, tf.float32), tf.int32)
        shape = (tf.shape(num_frames)[0], 1)
        place = tf.random.stateless_uniform(shape, self.draws.seed()) if training else 0.5
        starts = tf.maximum(num_frames - self.iterations, 0) + 1
        start = tf.cast(place * tf.cast(starts, tf.float32), tf.int32)
        return tf.minimum(start + tf.range(self.iterations), num_frames - 1)


class DbofLayer(keras.layers.Layer):
    """A projection, batch-normalised or with a bias, initialised as the original's."""

    def __init__(self, size: int, add_batch_norm: bool):
        super().__init__(autocast=False)
        self.projection = Dense(
            size,
            use_bias=not add_batch_norm,
            kernel_initializer=normal(),
            bias_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="projection",
        )
        self.norm = BatchNorm() if add_batch_norm else None

    def call(self, values, training=False):
        projected = self.projection(values)
        if self.norm is None:
            return projected
        return self.norm(projected, training=training)


class RecurrentModel(VideoModel):
    """A stack of recurrent layers; its last state, after a video's last frame, is classified.

    LstmModel and GruModel: see the layers' sources in recurrence.py.

    Args:
        classifier: what the last layer's last output is classified by.
        layers: the recurrent layers, of which all but the last return every output.
    """

    def __init__(self, classifier, layers: list[Lstm] | list[Gru]):
        super().__init__(classifier)
        self.recurrent = layers

    def vector(self, features, num_frames, training):
        values = frames.vectors(features, num_frames, training)
        mask = tf.cast(frames.real(features, num_frames), tf.bool)
        for layer in self.recurrent:
            values = layer(values, mask=mask, training=training)
        return tf.cast(values, tf.float32)


class ContextGating(keras.layers.Layer):
    """Each entry of a vector, weighed by what all of them say of it: x * sigmoid(norm(x W)).

    Source: Miech et al. 2017, arXiv:1706.06905, section 3.1.
    """

    def __init__(self):
        super().__init__(autocast=False)
        self.norm = BatchNorm()

    def build(self, shape):
        self.projection = Dense(shape[-1], use_bias=False, name="projection")

    def call(self, vector, training=False):
        return vector * tf.sigmoid(self.norm(self.projection(vector), training=training))


class Vlad(Float32Weights, keras.layers.Layer):
    """How vectors differ from learnt cluster centres, summed a cluster.

    Call: vectors [batch, n, size] and share [batch, n, clusters], how much of a vector belongs to
        a cluster.
    Returns: [batch, size * clusters] float32, each cluster's part of length 1.
    Source: Arandjelovic et al. 2016, arXiv:1511.07247, section 3.1.
    """

    def __init__(self):
        super().__init__(autocast=False)

    def build(self, vectors_shape, share_shape):
        self.centres = self.add_weight(
            shape=(vectors_shape[-1], share_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=vectors_shape[-1] ** -0.5),
            name="centres",
        )

    def call(self, vectors, share):
        vectors, share = tf.cast(vectors, self.compute_dtype), tf.cast(share, self.compute_dtype)
        sums = tf.cast(tf.matmul(vectors, share, transpose_a=True), tf.float32)
        members = tf.reduce_sum(tf.cast(share, tf.float32), axis=1)[:, None]
        residuals = tf.nn.l2_normalize(sums - members * self.centres.value, axis=1)
        size, clusters = self.centres.shape
        return tf.reshape(residuals, [-1, size * clusters])


class NetVlad(keras.layers.Layer):
    """Vlad of a video's frames, each shared out by a softmax over the clusters.

    Call: frames [batch, frames, size] float32 and real [batch, frames] float32.
    Returns: [batch, size * clusters] float32.
    Source: Miech et al. 2017, arXiv:1706.06905, section 3.
    """

    def __init__(self, clusters: int):
        super().__init__(autocast=False)
        self.assign = Dense(clusters, use_bias=False, kernel_initializer=normal(), name="assign")
        self.norm = BatchNorm()
        self.vlad = Vlad()

    def call(self, frames, real, training=False):
        share = tf.nn.softmax(self.norm(self.assign(frames), training=training))
        return normalized(self.vlad(frames, share * real[..., None]))


class NeXtVlad(keras.layers.Layer):
    """Vlad of frames that are widened and split into groups, each group trusted by attention.

    Call: frames [batch, frames, size] float32 and real [batch, frames] float32.
    Returns: [batch, size * expansion / groups * clusters] float32.
    Source: Lin et al. 2018, arXiv:1811.05014, section 3.
    """

    def __init__(self, clusters: int, groups: int, expansion: int):
        super().__init__(autocast=False)
        self.clusters = clusters
        self.groups = groups
        self.expansion = expansion
        self.attention = Dense(groups, activation="sigmoid", name="attention")
        self.assign = Dense(groups * clusters, use_bias=False, name="assign")
        self.norm = BatchNorm()
        self.vlad = Vlad()
        self.result_norm = BatchNorm()

    def build(self, frames_shape, real_shape):
        # As many whole groups as the widened frame has room for.
        self.group_size = max(frames_shape[-1] * self.expansion // self.groups, 1)
        self.widen = Dense(self.group_size * self.groups, name="widen")

    def call(self, frames, real, training=False):
        num_groups = tf.shape(frames)[1] * self.groups  # of all frames of a video
        wide = self.widen(frames)
        trust = self.attention(wide) * real[..., None]
        share = self.norm(self.assign(wide), training=training)
        share = tf.nn.softmax(tf.reshape(share, [-1, num_groups, self.clusters]))
        share *= tf.reshape(trust, [-1, num_groups, 1])
        groups = tf.reshape(wide, [-1, num_groups, self.group_size])
        return self.result_norm(self.vlad(groups, share), training=training)


class AttentionPooling(keras.layers.Layer):
    """Weighted means of the frames, the weights made by gated attention, one set a head.

    Call: frames [batch, frames, size] float32 and real [batch, frames] float32.
    Returns: [batch, size * heads] float32.
    Source: Ilse et al. 2018, arXiv:1802.04712, section 2.4.
    """

    def __init__(self, heads: int, attention_size: int = 128):
        super().__init__(autocast=False)
        self.heads = heads
        self.what = Dense(attention_size, activation="tanh", name="what")
        self.gate = Dense(attention_size, activation="sigmoid", name="gate")
        self.scores = Dense(heads, use_bias=False, name="scores")

    def call(self, frames, real, training=False):
        # [batch, frames, heads]
        scores = self.scores(self.what(frames) * self.gate(frames))
        scores += (real[..., None] - 1) * 1e9
        weights = tf.nn.softmax(scores, axis=1) * real[..., None]
        means = tf.matmul(weights, frames, transpose_a=True)  # [batch, heads, size]
        return tf.reshape(means, [-1, self.heads * means.shape[2]])


class PoolingModel(VideoModel):
    """Each feature's frames pooled into one vector; these projected, gated and classified.

    Args:
        classifier: what the gated hidden vector is classified by.
        sizes: the features' lengths, in the order of their concatenation.
        poolings: a layer a feature, called with frames and `real` as NetVlad.
        hidden_size: length of the projection.
        dropout: share of the pooled vector left out in training.
    """

    def __init__(self, classifier, sizes: list[int], poolings: list, hidden_size: int, dropout=0.0):
        super().__init__(classifier)
        self.sizes = sizes
        self.poolings = poolings
        self.dropout = dropout
        self.draws = Draws()
        self.hidden = Dense(hidden_size, use_bias=False, name="hidden")
        self.norm = BatchNorm()
        self.gating = ContextGating()
        self.built = True  # as far as it can be, before its layers see their inputs

    def vector(self, features, num_frames, training):
        vectors = frames.vectors(features, num_frames, training)
        real = frames.real(features, num_frames)
        pooled = [
            pooling(part, real, training=training)
            for pooling, part in zip(
                self.poolings, tf.split(vectors, self.sizes, axis=2), strict=True
            )
        ]
        vector = tf.concat(pooled, axis=1)
        if training and self.dropout:
            vector = tf.nn.experimental.stateless_dropout(vector, self.dropout, self.draws.seed())
        hidden = tf.nn.relu6(self.norm(self.hidden(vector), training=training))
        return self.gating(hidden, training=training)
