"""KernelModel: kernel ridge regression with a Gaussian kernel, fitted in closed form."""

import keras
import numpy as np
import tensorflow as tf

from trainer.data.records import record_format
from trainer.models.layers import Float32Weights, l2_normalize


class KernelModel(Float32Weights, keras.Model):
    """Similarity to every training video, times coefficients: [batch, width] -> [batch, classes].

    For training videos c_i and x, both scaled:

        f(x) = sum over i of exp(-gamma |x - c_i|^2) a_i

    Scaling multiplies each entry of the first feature by its variance over the training videos, so
    that distances count its informative dimensions more: the features are whitened, which inflates
    noise. Then each feature has length 1, times its weight.

    The coefficients a solve (K + ridge I) a = y, for the kernel matrix K of the training videos and
    their multi-hot labels y. `fit_closed_form` sets them; there are no trainable weights.

    Source: Schoelkopf and Smola 2002, "Learning with kernels"; Rahimi and Recht 2017 on its scale.

    Args:
        num_classes: number of classes.
        sizes: sizes of the features, in the order of their concatenation.
        weights: weight of each feature in distances.
        num_centers: largest number of training videos.
        ridge: penalty of the squared coefficients.
    """

    def __init__(self, num_classes, sizes: list[int], weights: list[float], num_centers, ridge):
        super().__init__(autocast=False, name="kernel_model")
        self.sizes = sizes
        self.feature_weights = weights
        self.ridge = ridge

        def variable(name, shape):
            return self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name)

        self.centers = variable("centers", (num_centers, sum(sizes)))
        self.coefficients = variable("coefficients", (num_centers, num_classes))
        self.gamma = variable("gamma", ())
        self.scale = variable("scale", (sum(sizes),))

    def build(self, _):
        """Do nothing: the weights exist already."""

    def call(self, features, training=False):
        vectors = self._vectors(features)
        squares = tf.reduce_sum(tf.square(self.centers.value), axis=1)
        # Squared distance: 1 of the vector, of each center, minus twice the product.
        lengths = tf.reduce_sum(tf.square(vectors), axis=1, keepdims=True)
        products = tf.matmul(vectors, self.centers.value, transpose_b=True)
        distances = tf.maximum(lengths + squares - 2 * products, 0)
        return tf.matmul(tf.exp(-self.gamma.value * distances), self.coefficients.value)

    def head(self, outputs) -> tf.Tensor:
        """Probabilities, [batch, num_classes] float32."""
        return tf.clip_by_value(outputs, 0, 1)

    def fit_closed_form(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Set the centers and coefficients.

        Args:
            features: [videos, width] float32; no more videos than centers.
            labels: [videos, num_classes] float32, multi-hot.

        Returns:
            [videos, num_classes] float32, the leave-one-out predictions: of each video by the model
            that the other videos would give.
        """
        variance = features[:, : self.sizes[0]].var(axis=0)
        rest = np.ones(sum(self.sizes[1:]), np.float32)
        self.scale.assign(np.concatenate([variance / max(variance.mean(), 1e-9), rest]))
        vectors = self._vectors(tf.constant(features)).numpy()
        kernel, gamma = gaussian_kernel(vectors)
        coefficients, inverse_diagonal = solve(kernel, labels, self.ridge)
        padding = [[0, self.centers.shape[0] - len(vectors)], [0, 0]]
        self.centers.assign(np.pad(vectors, padding))
        self.coefficients.assign(np.pad(coefficients, padding))
        self.gamma.assign(gamma)
        return labels - coefficients / inverse_diagonal[:, None]

    def _vectors(self, features):
        parts = tf.split(features * self.scale.value, self.sizes, axis=1)
        weighted = zip(self.feature_weights, parts, strict=True)
        return tf.concat([weight * l2_normalize(part) for weight, part in weighted], axis=1)


def gaussian_kernel(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Kernel matrix, [n, n] float32, and gamma: 1 / median of the squared distances."""
    kernel = vectors @ vectors.T
    squares = np.diag(kernel).copy()
    kernel *= -2
    kernel += squares[:, None]
    kernel += squares
    np.maximum(kernel, 0, out=kernel)
    step = max(len(vectors) // 3000, 1)  # a sample of the distances suffices
    gamma = float(1 / max(np.median(kernel[::step, ::step]), 1e-6))
    kernel *= -gamma
    return np.exp(kernel, out=kernel), gamma


def solve(kernel: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve (K + ridge I) a = y by Cholesky decomposition.

    Args:
        kernel: K, [n, n] float32; overwritten.
        labels: y, [n, num_classes] float32.
        ridge: ridge.

    Returns:
        a, [n, num_classes] float32, and the diagonal of the inverse of K + ridge I, [n] float32.
    """
    from scipy import linalg

    kernel[np.diag_indices(len(kernel))] += ridge
    # LAPACK stores columns: the transposed matrix, which is the same one, is not copied.
    factor = linalg.cholesky(kernel.T, lower=True, overwrite_a=True, check_finite=False)
    coefficients = linalg.cho_solve((factor, True), labels, check_finite=False)
    inverse, _ = linalg.lapack.strtri(factor, lower=1, overwrite_c=1)
    return coefficients, np.einsum("ij,ij->j", inverse, inverse)


def build(flags: dict) -> KernelModel:
    features = record_format(flags).features
    return KernelModel(
        flags["num_classes"],
        [feature.size for feature in features],
        [1.0] + [flags["kernel_audio_weight"]] * (len(features) - 1),
        flags["kernel_centers"],
        flags["kernel_ridge"],
    )
