"""RoutedExpertsModel: a sparse mixture of whole networks; a router picks a few per video."""

import keras
import numpy as np
import tensorflow as tf

from trainer.common import replicas
from trainer.data.records import record_format
from trainer.models.layers import Dense, Float32Weights, RandomSeeds, unit_features

INITIAL_BIAS = -7.0  # of the classes' logits, as in gated_mlp.py


class Expert(keras.layers.Layer):
    """A whole network: a hidden layer, dropout and one logit per class.

    Call: [videos, width] float32.
    Returns: [videos, num_classes] float32.
    """

    def __init__(self, num_classes: int, size: int, dropout: float, name: str):
        super().__init__(autocast=False, name=name)
        self.dropout = dropout
        self.hidden = Dense(size, activation="gelu", name=f"{name}_hidden")
        bias = keras.initializers.Constant(INITIAL_BIAS)
        self.classes = Dense(num_classes, bias_initializer=bias, name=f"{name}_classes")

    def build(self, shape):
        self.hidden.build(shape)
        self.classes.build((None, self.hidden.units))

    def call(self, vectors, seed=None, training=False):
        hidden = self.hidden(vectors, training=training)
        if training and self.dropout:
            hidden = tf.nn.experimental.stateless_dropout(hidden, self.dropout, seed)
        return self.classes(hidden, training=training)


class Router(Float32Weights, keras.layers.Layer):
    """Picks experts for each video: a linear softmax in float32, and a bias that balances the load.

    The bias (Wang et al. 2024, arXiv:2408.15664) decides which experts are picked, but not their
    weights; after each step it rises for experts with a lower load than the mean, and falls for
    the others. No gradient and no additional loss are involved.

    With one expert picked, its weight is 1, so the router learns in the soft steps alone.

    Call: [batch, width] float32.
    Returns: [batch, experts] float32, the weights of the experts that were picked, which sum to 1,
        and 0 for the others.

    Args:
        num_experts: number of experts.
        num_picked: number of experts picked per video.
        soft_steps: number of first training steps in which all experts are picked.
        balance_rate: change of the bias per step.
        random: route by a hash of the features instead, as a control: no expert can specialize.
    """

    def __init__(self, num_experts, num_picked, soft_steps, balance_rate, random):
        super().__init__(autocast=False, name="router")
        self.num_experts = num_experts
        self.num_picked = num_picked
        self.soft_steps = soft_steps
        self.balance_rate = balance_rate
        self.random = random

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], self.num_experts), initializer="zeros", name="kernel"
        )
        self.bias = self.add_weight(shape=(self.num_experts,), initializer="zeros", name="bias")
        self.balance = self.add_weight(
            shape=(self.num_experts,), initializer="zeros", trainable=False, name="balance"
        )
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

    def probabilities(self, vectors):
        """[batch, experts] float32: probability of each expert."""
        if self.random:
            return tf.one_hot(_hash(vectors) % self.num_experts, self.num_experts)
        return tf.nn.softmax(tf.matmul(vectors, self.kernel.value) + self.bias.value)

    def call(self, vectors, training=False):
        probabilities = self.probabilities(vectors)
        order = tf.math.log(probabilities + 1e-9) + self.balance.value
        if self.random:  # the hash decides the first one, its successors the others
            order = sum(
                tf.roll(probabilities, i, axis=1) * (self.num_experts - i)
                for i in range(self.num_picked)
            )
            probabilities = tf.ones_like(probabilities)
        top = tf.math.top_k(order, self.num_picked)[1]
        picked = tf.reduce_max(tf.one_hot(top, self.num_experts), axis=1)
        if training:
            self._update(picked)
            picked = tf.where(self.steps.value <= self.soft_steps, tf.ones_like(picked), picked)
        weights = (probabilities + 1e-9) * picked
        return weights / tf.reduce_sum(weights, axis=1, keepdims=True)

    def _update(self, picked):
        load, videos = replicas.total(
            [tf.reduce_sum(picked, axis=0), tf.cast(tf.shape(picked)[0], tf.float32)]
        )
        mean = videos * self.num_picked / self.num_experts
        balance = self.balance.value + self.balance_rate * tf.sign(mean - load)
        replicas.assign(self.balance.value, balance)
        replicas.assign(self.steps.value, self.steps.value + 1)


def _hash(vectors):
    """[batch] int32, not negative, from the bits of the vectors."""
    bits = tf.bitcast(vectors, tf.int32)
    multipliers = tf.constant(
        np.random.default_rng(0).integers(1, 2**31, vectors.shape[1]) | 1, tf.int32
    )
    mixed = tf.reduce_sum(bits * multipliers, axis=1)
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(mixed, 8), 0xFFFF)


class RoutedExpertsModel(keras.Model):
    """A video's prediction is the weighted mean of the probabilities of the experts picked for it.

    Experts that are not picked are not computed for the video, and do not learn from it: the time
    of a step grows with the number of experts picked, not with the number of experts.

    Source: Jacobs et al. 1991, "Adaptive mixtures of local experts"; Shazeer et al. 2017,
        arXiv:1701.06538.

    Args:
        sizes: sizes of the features, in the order of their concatenation.
        router: the router.
        experts: the experts.
        shared: an expert for every video, whose logits are added to those of the others; or None.
    """

    def __init__(self, sizes: list[int], router: Router, experts: list[Expert], shared):
        super().__init__(autocast=False, name="routed_experts_model")
        self.sizes = sizes
        self.router = router
        self.experts = experts
        self.shared = shared
        self.seeds = RandomSeeds()

    def build(self, shape):
        for layer in (self.router, *self.experts, *([self.shared] if self.shared else [])):
            layer.build(shape)

    def call(self, features, training=False):
        vectors = unit_features(features, self.sizes)
        weights = self.router(vectors / vectors.shape[1] ** 0.5, training=training)
        return self.mixture(vectors, weights, training)

    def mixture(self, vectors, weights, training=False):
        """Probabilities, [batch, num_classes] float32, for given weights of the experts.

        Args:
            vectors: [batch, width] float32, of `unit_features`.
            weights: [batch, experts] float32; experts with weight 0 are not computed.
            training: whether the model is being trained.
        """
        seed = self.seeds.next() if training else None
        common = self.shared(vectors, seed, training=training) if self.shared else None
        total = tf.zeros([tf.shape(vectors)[0], self.experts[0].classes.units])
        for number, expert in enumerate(self.experts):
            videos = tf.where(weights[:, number] > 0)[:, 0]
            # Replicas add their number to the second part of the seed: no two seeds coincide.
            expert_seed = tf.stack([seed[0], seed[1] + 1000 * (number + 1)]) if training else None
            logits = expert(tf.gather(vectors, videos), expert_seed, training=training)
            if common is not None:
                logits += tf.gather(common, videos)
            part = tf.gather(weights[:, number], videos)[:, None] * tf.sigmoid(logits)
            total = tf.tensor_scatter_nd_add(total, videos[:, None], part)
        return total

    def initialize(self, features: np.ndarray):
        """Start the router at the k-means centroids of some videos, [videos, width] float32."""
        vectors = unit_features(tf.constant(features), self.sizes).numpy()
        vectors /= vectors.shape[1] ** 0.5
        centroids = k_means(vectors, self.router.num_experts)
        # The softmax of -sharpness * squared distance, up to a term that all experts share.
        sharpness = 0.5 / max(vectors.var(axis=0).sum(), 1e-6) * 20
        self.router.kernel.assign(2 * sharpness * centroids.T)
        self.router.bias.assign(-sharpness * (centroids**2).sum(axis=1))


def k_means(vectors: np.ndarray, num_clusters: int, num_iterations: int = 15) -> np.ndarray:
    """Centroids, [num_clusters, size], by Lloyd's algorithm from a k-means++ start."""
    rng = np.random.default_rng(0)
    centroids = vectors[:1].astype(np.float64)
    nearest = np.full(len(vectors), np.inf)
    for _ in range(num_clusters - 1):
        nearest = np.minimum(nearest, ((vectors - centroids[-1]) ** 2).sum(axis=1))
        weight = nearest + 1e-12
        chosen = rng.choice(len(vectors), p=weight / weight.sum())
        centroids = np.concatenate([centroids, vectors[chosen : chosen + 1]])
    for _ in range(num_iterations):
        distances = (centroids**2).sum(axis=1) - 2 * vectors @ centroids.T
        nearest = distances.argmin(axis=1)
        for cluster in range(num_clusters):
            members = vectors[nearest == cluster]
            if len(members):
                centroids[cluster] = members.mean(axis=0)
    return centroids


def build(flags: dict) -> RoutedExpertsModel:
    num_experts = flags["routed_experts"]
    size, dropout = flags["routed_expert_size"], flags["routed_dropout"]
    router = Router(
        num_experts,
        min(flags["routed_experts_picked"], num_experts),
        flags["routed_soft_steps"],
        flags["routed_balance_rate"],
        flags["routed_random"],
    )

    def expert(name):
        return Expert(flags["num_classes"], size, dropout, name)

    return RoutedExpertsModel(
        [feature.size for feature in record_format(flags).features],
        router,
        [expert(f"expert_{number}") for number in range(1, num_experts + 1)],
        expert("shared_expert") if flags["routed_shared_expert"] else None,
    )
