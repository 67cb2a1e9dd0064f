"""Layers that models share, and the base class of this project's models."""

import random

import keras
import tensorflow as tf

from trainer.common import replicas
from trainer.models import kernels

# The original's 1e-8 * sum(w^2) / 2; Keras leaves out the half.
L2 = keras.regularizers.L2(0.5e-8)


class VideoModel(keras.Model):
    """A model that turns a video into a vector, `vector`, and classifies it.

    Returns the logits of the classifier; `head` turns them into probabilities. `features` of
    frame-level models may come as a tuple of parts, see frames.py.
    """

    takes_parts = True

    def __init__(self, classifier: keras.layers.Layer, name: str):
        super().__init__(autocast=False, name=name)
        self.classifier = classifier

    def build(self, *_):
        """Do nothing: layers are built when they are first called."""

    def call(self, features, num_frames=None, training=False):
        return self.classifier(self.vector(features, num_frames, training), training=training)

    def head(self, logits) -> tf.Tensor:
        """Probabilities, [batch, num_classes] float32."""
        return self.classifier.head(logits)


def l2_normalize(vectors: tf.Tensor) -> tf.Tensor:
    """Scale vectors to length 1 over the last axis."""
    return tf.nn.l2_normalize(vectors, axis=-1, epsilon=1e-12)


def unit_features(features: tf.Tensor, sizes: list[int]) -> tf.Tensor:
    """Scale each feature to length 1, and their concatenation to a variance of about 1 per entry.

    Args:
        features: [batch, width] float32, the features side by side.
        sizes: sizes of the features.
    """
    parts = [l2_normalize(part) for part in tf.split(features, sizes, axis=-1)]
    return tf.concat(parts, axis=-1) * (sum(sizes) / len(sizes)) ** 0.5


def normal_initializer() -> keras.initializers.Initializer:
    """Normal with standard deviation 1 / sqrt(fan-in).

    Create one per layer: an initializer draws its own seed when it is created.
    """
    return keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")


class Float32Weights:
    """Mixin for Keras layers whose weights stay float32 with mixed precision.

    Keras casts them despite autocast=False of the layer when an outer layer autocasts.
    """

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, autocast=False, **kwargs)


class Dense(Float32Weights, keras.layers.Dense):
    """Keras' Dense with float32 inputs and outputs.

    With mixed precision it multiplies in bfloat16 in training, and in float32 otherwise.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, autocast=False, **kwargs)

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        outputs = self.matmul(inputs, training)
        if outputs.dtype == tf.bfloat16:
            fast = kernels.use(training)
            outputs = kernels.to_float32(outputs) if fast else tf.cast(outputs, tf.float32)
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias.value)
        return self.activation(outputs)

    def matmul(self, inputs, training) -> tf.Tensor:
        """inputs times kernel: float32, or in training the dtype of the products."""
        kernel = tf.convert_to_tensor(self.kernel.value)
        if not training or self.compute_dtype == "float32":
            return tf.tensordot(inputs, kernel, 1)
        if kernels.use(training):
            return kernels.bfloat16_matmul(inputs, kernel)
        return tf.tensordot(tf.cast(inputs, tf.bfloat16), tf.cast(kernel, tf.bfloat16), 1)


class BatchNorm(Float32Weights, keras.layers.Layer):
    """Batch normalization whose moving averages are accurate after a few steps.

    A moving average with decay 0.999, as in the original, needs thousands of steps to forget its
    initial value. Here the n-th update decays by min(0.999, n / (n + 1)): a plain mean at first.

    Call: values [..., size] float32, normalized over all axes but the last; and in training
        optionally mask [...] float32, 1 for values that count and 0 for padding.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    DECAY = 0.999
    EPSILON = 0.001

    def __init__(self, name="norm"):
        super().__init__(autocast=False, name=name)
        self.supports_masking = True

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

    def call(self, values, training=False, mask=None):
        mean, variance = self.mean.value, self.variance.value
        if training:
            mean, variance = _moments(values, mask)
            self._update_averages(mean, variance)
        return tf.nn.batch_normalization(
            values, mean, variance, self.beta.value, self.gamma.value, self.EPSILON
        )

    def _update_averages(self, mean, variance):
        """Update the moving averages unless the batch has NaN or infinite values."""
        decay = tf.minimum(self.DECAY, self.updates.value / (self.updates.value + 1))
        finite = tf.reduce_all(tf.math.is_finite(mean + variance))
        for average, new in ((self.mean, mean), (self.variance, variance)):
            updated = decay * average.value + (1 - decay) * new
            replicas.assign(average.value, tf.where(finite, updated, average.value))
        replicas.assign(self.updates.value, self.updates.value + tf.cast(finite, tf.float32))


class LayerNorm(Float32Weights, keras.layers.Layer):
    """Layer normalization in float32: [..., size] float32, normalized over the last axis.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """

    EPSILON = 1e-3

    def __init__(self, name="norm"):
        super().__init__(autocast=False, name=name)

    def build(self, shape):
        size = (shape[-1],)
        self.gamma = self.add_weight(shape=size, initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=size, initializer="zeros", name="beta")

    def call(self, values):
        mean, variance = tf.nn.moments(values, [-1], keepdims=True)
        return tf.nn.batch_normalization(
            values, mean, variance, self.beta.value, self.gamma.value, self.EPSILON
        )


def _moments(values, mask):
    """Mean and variance, [size] each, over all axes but the last and over all replicas."""
    axes = list(range(len(values.shape) - 1))

    def total(values):
        return tf.reduce_sum(values if mask is None else values * mask[..., None], axes)

    count = tf.cast(tf.size(values) // values.shape[-1], tf.float32)
    if mask is not None:
        count = tf.reduce_sum(mask)
    count, sums = replicas.total([count, total(values)])
    mean = sums / tf.maximum(count, 1)
    squares = replicas.total(total(tf.math.squared_difference(values, mean)))
    return mean, squares / tf.maximum(count, 1)


class RandomSeeds(keras.layers.Layer):
    """Seeds for TensorFlow's stateless random functions, different on each replica.

    The state is a variable, so that a resumed run continues the sequence.
    """

    def __init__(self, name="random_seeds"):
        super().__init__(autocast=False, name=name)
        start = random.getrandbits(31)  # of the generator that --seed seeds
        self.state = self.add_weight(
            shape=(),
            dtype="int64",
            initializer=lambda *_, **__: tf.constant(start, tf.int64),
            trainable=False,
            name="state",
        )

    def next(self) -> tf.Tensor:
        """Next seed, [2] int64."""
        replicas.assign(self.state.value, self.state.value + 1)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return tf.stack([self.state.value, tf.cast(replica, tf.int64)])
