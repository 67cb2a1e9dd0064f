"""NetVladModel and NeXtVladModel: differences of frames from learned clusters."""

import keras
import tensorflow as tf

from trainer.models import pooling
from trainer.models.layers import BatchNorm, Dense, Float32Weights, l2_normalize, normal_initializer


class Vlad(Float32Weights, keras.layers.Layer):
    """Sum of the differences between vectors and learned cluster centers, per cluster.

    Call: vectors [batch, n, size] and assignment [batch, n, clusters], the weight of a vector in a
        cluster.
    Returns: [batch, size * clusters] float32, each cluster's part of length 1.
    Source: Arandjelovic et al. 2016, arXiv:1511.07247, section 3.1.
    """

    def __init__(self, name="vlad"):
        super().__init__(autocast=False, name=name)

    def build(self, vectors_shape, assignment_shape):
        self.centers = self.add_weight(
            shape=(vectors_shape[-1], assignment_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=vectors_shape[-1] ** -0.5),
            name="centers",
        )

    def call(self, vectors, assignment):
        vectors, assignment = (
            tf.cast(values, self.compute_dtype) for values in (vectors, assignment)
        )
        sums = tf.cast(tf.matmul(vectors, assignment, transpose_a=True), tf.float32)
        totals = tf.reduce_sum(tf.cast(assignment, tf.float32), axis=1)[:, None]
        residuals = tf.nn.l2_normalize(sums - totals * self.centers.value, axis=1)
        size, clusters = self.centers.shape
        return tf.reshape(residuals, [-1, size * clusters])


class NetVlad(keras.layers.Layer):
    """VLAD of a video's frames, assigned to clusters by a softmax.

    Call: frames [batch, frames, size] float32 and frame_mask [batch, frames] float32.
    Returns: [batch, size * clusters] float32.
    Source: Miech et al. 2017, arXiv:1706.06905, section 3.
    """

    def __init__(self, clusters: int, name: str):
        super().__init__(autocast=False, name=name)
        self.assignment = Dense(
            clusters, use_bias=False, kernel_initializer=normal_initializer(), name="assignment"
        )
        self.norm = BatchNorm()
        self.vlad = Vlad()

    def call(self, frames, frame_mask, training=False):
        logits = self.norm(
            self.assignment(frames, training=training), training=training, mask=frame_mask
        )
        return l2_normalize(self.vlad(frames, tf.nn.softmax(logits) * frame_mask[..., None]))


class NeXtVlad(keras.layers.Layer):
    """VLAD of frames that are widened and split into groups, weighted by attention.

    Call: frames [batch, frames, size] float32 and frame_mask [batch, frames] float32.
    Returns: [batch, size * expansion / groups * clusters] float32.
    Source: Lin et al. 2018, arXiv:1811.05014, section 3.
    """

    def __init__(self, clusters: int, groups: int, expansion: int, name: str):
        super().__init__(autocast=False, name=name)
        self.clusters = clusters
        self.groups = groups
        self.expansion = expansion
        self.attention = Dense(groups, activation="sigmoid", name="attention")
        self.assignment = Dense(groups * clusters, use_bias=False, name="assignment")
        self.norm = BatchNorm()
        self.vlad = Vlad()
        self.output_norm = BatchNorm("output_norm")

    def build(self, frames_shape, frame_mask_shape):
        # Groups of whole numbers of values, as large as the expansion allows.
        self.group_size = max(frames_shape[-1] * self.expansion // self.groups, 1)
        self.widen = Dense(self.group_size * self.groups, name="widen")

    def call(self, frames, frame_mask, training=False):
        num_groups = tf.shape(frames)[1] * self.groups  # of all frames of a video
        wide = self.widen(frames, training=training)
        attention = self.attention(wide, training=training) * frame_mask[..., None]
        logits = self.norm(
            self.assignment(wide, training=training), training=training, mask=frame_mask
        )
        assignment = tf.nn.softmax(tf.reshape(logits, [-1, num_groups, self.clusters]))
        assignment *= tf.reshape(attention, [-1, num_groups, 1])
        groups = tf.reshape(wide, [-1, num_groups, self.group_size])
        return self.output_norm(self.vlad(groups, assignment), training=training)


def build_net_vlad(flags: dict) -> pooling.PoolingModel:
    clusters = flags["vlad_cluster_size"]
    return pooling.build(flags, lambda name: NetVlad(clusters, name), "net_vlad_model")


def build_ne_xt_vlad(flags: dict) -> pooling.PoolingModel:
    sizes = flags["vlad_cluster_size"], flags["nextvlad_groups"], flags["nextvlad_expansion"]
    return pooling.build(flags, lambda name: NeXtVlad(*sizes, name), "ne_xt_vlad_model")
