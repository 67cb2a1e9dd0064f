"""The frame-level models, against their definitions written out in NumPy, a video at a time."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.models import registry
from trainer.models.layers import BatchNorm
from trainer.training import losses

SIZES = (3, 2)
SMALL = {
    "frame_features": True,
    "feature_names": "rgb,audio",
    "feature_sizes": "3,2",
    "num_classes": 4,
    "iterations": 4,
    "dbof_cluster_size": 6,
    "dbof_hidden_size": 5,
    "lstm_cells": 3,
    "gru_cells": 3,
    "vlad_cluster_size": 2,
    "nextvlad_groups": 2,
    "attention_heads": 2,
    "pooling_hidden_size": 5,
}
NUM_FRAMES = [1, 2, 5, 11, 12]


def create(mixed_precision=False, **flags):
    keras.utils.set_random_seed(1)
    return registry.create(TrainConfig(**SMALL | flags).model_flags, mixed_precision)


def randomise(model):
    """Gives every weight and moving average some value of its own."""
    rng = np.random.default_rng(5)
    for variable in model.variables:
        if "float" in variable.dtype and not variable.path.endswith("updates"):
            positive = variable.path.endswith(("gamma", "variance"))
            values = rng.normal(0, 0.7, variable.shape)
            variable.assign(np.exp(values) if positive else values)


@pytest.fixture(scope="module")
def videos() -> dict[str, np.ndarray]:
    """A video for each of NUM_FRAMES, zeros after its end."""
    rng = np.random.default_rng(0)
    features = np.zeros([len(NUM_FRAMES), max(NUM_FRAMES), 5], np.uint8)
    for video, n in enumerate(NUM_FRAMES):
        features[video, :n] = rng.integers(0, 256, [n, 5])
    return {"features": features, "num_frames": np.array(NUM_FRAMES, np.int32)}


def predict(model, videos) -> np.ndarray:
    return registry.predict(model, tf.nest.map_structure(tf.constant, videos)).numpy()


def vector(model, videos, training=True) -> np.ndarray:
    """The vector of each video that the model classifies."""
    inputs = tf.nest.map_structure(tf.constant, videos)
    return model.vector(**inputs, training=training).numpy()


# The definitions, in float64, of one video: frames [num_frames, 5].


class Weights:
    """A model's variables by the end of their path."""

    def __init__(self, model):
        self.model = model.name
        self.values = {}
        for variable in model.variables:
            path = f"/{variable.path}"
            self.values.setdefault(path, []).append(variable.numpy().astype(np.float64))

    def __call__(self, end: str, number: int = 0) -> np.ndarray:
        """The number-th variable whose path ends with `end`."""
        found = [v for path, vs in self.values.items() if path.endswith("/" + end) for v in vs]
        return found[number]

    def has(self, end: str) -> bool:
        return any(path.endswith("/" + end) for path in self.values)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis=-1):
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def unit(x, axis=-1):
    return x / np.sqrt(np.maximum((x**2).sum(axis=axis, keepdims=True), 1e-12))


def relu6(x):
    return np.clip(x, 0, 6)


def frames_of(features, num_frames):
    """Dequantised, and each of length 1 over all features together."""
    return unit(features[:num_frames].astype(np.float64) * (4 / 255) + (4 / 512 - 2))


def batch_norm(x, w, where, number=0, name="norm"):
    mean, variance = (w(f"{where}{name}/{part}", number) for part in ("mean", "variance"))
    gamma, beta = (w(f"{where}{name}/{part}", number) for part in ("gamma", "beta"))
    return (x - mean) / np.sqrt(variance + 0.001) * gamma + beta


def classify(x, w):
    if not w.has("gates/kernel"):
        return sigmoid(x @ w("classes/kernel") + w("classes/bias"))
    gates = softmax((x @ w("gates/kernel")).reshape(3, 4), axis=0)
    experts = sigmoid(x @ w("experts/kernel") + w("experts/bias")).reshape(2, 4)
    return (gates[:2] * experts).sum(axis=0)


def frame_level_logistic(frames, w):
    return classify(frames.mean(axis=0), w)


def dbof(frames, w, random_frames=True, pooling=np.max, activation=sigmoid, norm=True):
    n, iterations = len(frames), 4
    if random_frames:  # without randomness: evenly
        chosen = [int((i + 0.5) / iterations * n) for i in range(iterations)]
    else:  # a run in the middle
        start = int(0.5 * (max(n - iterations, 0) + 1))
        chosen = [min(start + i, n - 1) for i in range(iterations)]
    x = frames[chosen]

    def layer(x, name):
        x = x @ w(f"{name}/projection/kernel")
        if norm:
            return activation(batch_norm(x, w, f"{name}/"))
        return activation(x + w(f"{name}/projection/bias"))

    if norm:
        x = batch_norm(x, w, "dbof_model/", name="input_norm")
    clusters = layer(x, "cluster")
    return classify(layer(pooling(clusters, axis=0), "hidden"), w)


def lstm(frames, w):
    x = frames
    for number in range(2):
        kernel, recurrent, bias = (
            w(f"lstm_cell/{part}", number) for part in ("kernel", "recurrent_kernel", "bias")
        )
        h = c = np.zeros(3)
        outputs = []
        for frame in x:
            i, f, new, o = np.split(frame @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        x = np.array(outputs)
    return classify(x[-1], w)


def gru(frames, w):
    x = frames
    for number in range(2):
        kernel, recurrent, bias = (
            w(f"gru_cell/{part}", number) for part in ("kernel", "recurrent_kernel", "bias")
        )
        h = np.zeros(3)
        outputs = []
        for frame in x:
            of_x, of_h = frame @ kernel + bias[0], h @ recurrent + bias[1]
            (z_x, r_x, n_x), (z_h, r_h, n_h) = np.split(of_x, 3), np.split(of_h, 3)
            z = sigmoid(z_x + z_h)
            h = z * h + (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h)
            outputs.append(h)
        x = np.array(outputs)
    return classify(x[-1], w)


def vlad(vectors, share, centers):
    """[size, clusters] with clusters of length 1, as a vector."""
    residuals = np.zeros(centers.shape)
    for vector, shares in zip(vectors, share, strict=True):
        residuals += (vector[:, None] - centers) * shares
    return unit(residuals, axis=0).ravel()


def net_vlad(frames, w, number):
    name = f"pooling_{number + 1}"
    share = batch_norm(frames @ w(f"{name}/assignment/kernel"), w, f"{name}/")
    return unit(vlad(frames, softmax(share), w(f"{name}/vlad/centers")))


def ne_xt_vlad(frames, w, number):
    groups, pooling = 2, f"pooling_{number + 1}"

    def dense(x, name):
        return x @ w(f"{pooling}/{name}/kernel") + w(f"{pooling}/{name}/bias")

    wide = dense(frames, "widen")
    trust = sigmoid(dense(wide, "attention"))
    share = batch_norm(wide @ w(f"{pooling}/assignment/kernel"), w, f"{pooling}/")
    share = softmax(share.reshape(len(frames) * groups, 2)) * trust.reshape(-1, 1)
    parts = wide.reshape(len(frames) * groups, -1)
    vector = vlad(parts, share, w(f"{pooling}/vlad/centers"))
    return batch_norm(vector, w, f"{pooling}/", name="output_norm")


def attention(frames, w, number):
    pooling = f"pooling_{number + 1}"
    features, gate = (
        frames @ w(f"{pooling}/{name}/kernel") + w(f"{pooling}/{name}/bias")
        for name in ("features", "gate")
    )
    logits = (np.tanh(features) * sigmoid(gate)) @ w(f"{pooling}/logits/kernel")
    return (softmax(logits, axis=0).T @ frames).ravel()


def pooled_by(pooling):
    """A model that pools each feature on its own, projects, gates and classifies."""

    def model(frames, w):
        parts = np.split(frames, [SIZES[0]], axis=1)
        x = np.concatenate([pooling(part, w, number) for number, part in enumerate(parts)])
        hidden = relu6(batch_norm(x @ w("hidden/kernel"), w, f"{w.model}/"))
        gates = batch_norm(hidden @ w("gating/projection/kernel"), w, "gating/")
        return classify(hidden * sigmoid(gates), w)

    return model


def of_dbof(**options):
    return lambda frames, w: dbof(frames, w, **options)


DEFINITIONS = [
    ({"model": "FrameLevelLogisticModel"}, frame_level_logistic),
    ({"model": "DbofModel"}, dbof),
    ({"model": "DbofModel", "sample_random_frames": False}, of_dbof(random_frames=False)),
    ({"model": "DbofModel", "dbof_pooling_method": "average"}, of_dbof(pooling=np.mean)),
    ({"model": "DbofModel", "dbof_activation": "relu6"}, of_dbof(activation=relu6)),
    ({"model": "DbofModel", "dbof_add_batch_norm": False}, of_dbof(norm=False)),
    ({"model": "DbofModel", "video_level_classifier_model": "LogisticModel"}, dbof),
    ({"model": "LstmModel"}, lstm),
    ({"model": "GruModel"}, gru),
    ({"model": "NetVladModel"}, pooled_by(net_vlad)),
    ({"model": "NeXtVladModel"}, pooled_by(ne_xt_vlad)),
    ({"model": "AttentionModel"}, pooled_by(attention)),
]


@pytest.mark.parametrize(
    "flags, definition", DEFINITIONS, ids=["-".join(map(str, f.values())) for f, _ in DEFINITIONS]
)
def test_equals_its_definition(videos, flags, definition):
    model = create(**flags)
    randomise(model)
    weights = Weights(model)
    expected = [
        definition(frames_of(features, n), weights)
        for features, n in zip(videos["features"], NUM_FRAMES, strict=True)
    ]
    np.testing.assert_allclose(predict(model, videos), expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module", params=registry.names(frame_level=True))
def model(request):
    model = create(model=request.param)
    randomise(model)
    return model


def test_a_video_does_not_depend_on_its_company_nor_on_what_follows_its_end(model, videos):
    together = predict(model, videos)
    for video, n in enumerate(NUM_FRAMES):
        alone = {name: value[video : video + 1].copy() for name, value in videos.items()}
        alone["features"][:, n:] = 77
        np.testing.assert_allclose(predict(model, alone)[0], together[video], rtol=1e-5)


def test_predicting_changes_nothing_and_repeats(model, videos):
    before = [variable.numpy() for variable in model.variables]
    once, again = predict(model, videos), predict(model, videos)
    assert np.array_equal(once, again)
    assert all((v.numpy() == b).all() for v, b in zip(model.variables, before, strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_features_may_come_in_parts(model, videos, training):
    parts = tuple(np.split(videos["features"], [SIZES[0]], axis=2))
    got = []
    before = [variable.numpy() for variable in model.variables]
    for features in (videos["features"], parts):
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)  # what training draws and averages, too
        got.append(vector(model, videos | {"features": features}, training))
    np.testing.assert_allclose(got[0], got[1], rtol=1e-5)


def outputs_and_gradients(model, videos):
    """The outputs of a model in training, and the gradients of the loss by all weights."""
    inputs = {name: tf.constant(value) for name, value in videos.items()}
    weights = [variable.value for variable in model.trainable_variables]
    labels = losses.multi_hot(tf.constant([[0]] * len(NUM_FRAMES)), 4)
    with tf.GradientTape() as tape:
        outputs = registry.call(model, inputs, training=True)
        loss = losses.cross_entropy(labels, registry.probabilities(model, outputs))
    return outputs, tape.gradient(loss, weights)


def test_every_weight_is_trained(model, videos):
    _, gradients = outputs_and_gradients(model, videos)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(gradient), variable.path


@pytest.mark.parametrize("name", registry.names(frame_level=True))
def test_mixed_precision_is_close_to_float32(name, videos):
    exact, mixed = create(model=name), create(model=name, mixed_precision=True)
    mixed.set_weights(exact.get_weights())
    (logits, *_), expected = outputs_and_gradients(exact, videos)
    (rounded, *_), gradients = outputs_and_gradients(mixed, videos)
    error = np.abs(tf.cast(rounded, tf.float32) - logits)
    assert 0 < error.max() < 0.1 * np.abs(logits).max()
    got, wanted = (
        np.concatenate([tf.cast(gradient, tf.float32).numpy().ravel() for gradient in gradients])
        for gradients in (gradients, expected)
    )
    assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)


def test_the_penalty_is_on_the_kernels_that_classify(model):
    penalised = [variable.path for variable in model.variables if variable.regularizer]
    assert penalised
    assert all(re.search(r"(classes|gates|experts)/kernel$", path) for path in penalised)
    assert {float(v.regularizer.l2) for v in model.variables if v.regularizer} == {0.5e-8}


@pytest.mark.parametrize(
    "name", ["FrameLevelLogisticModel", "NetVladModel", "NeXtVladModel", "AttentionModel"]
)
def test_the_order_of_the_frames_does_not_matter(name, videos):
    model = create(model=name)
    randomise(model)
    backwards = videos["features"].copy()
    for video, n in enumerate(NUM_FRAMES):
        backwards[video, :n] = videos["features"][video, :n][::-1]
    got = predict(model, videos | {"features": backwards})
    np.testing.assert_allclose(got, predict(model, videos), rtol=1e-4)


def test_a_video_without_frames_is_not_nan(model):
    video = {"features": np.zeros([1, 12, 5], np.uint8), "num_frames": np.int32([0])}
    assert np.isfinite(predict(model, video)).all()


@pytest.mark.parametrize("name", registry.names(frame_level=True))
def test_one_feature_is_enough(name, videos):
    model = create(model=name, feature_names="audio", feature_sizes="5")
    randomise(model)
    predictions = predict(model, videos)
    assert predictions.shape == (len(NUM_FRAMES), 4)
    assert len(np.unique(predictions, axis=0)) == len(NUM_FRAMES)


@pytest.mark.parametrize("sample_random_frames", [True, False])
def test_frames_are_drawn_at_random_in_training(videos, sample_random_frames):
    model = create(
        model="DbofModel", sample_random_frames=sample_random_frames, dbof_add_batch_norm=False
    )
    randomise(model)
    draws = [vector(model, videos) for _ in range(8)]
    assert len({draw[NUM_FRAMES.index(12)].tobytes() for draw in draws}) > 2
    assert len({draw[NUM_FRAMES.index(1)].tobytes() for draw in draws}) == 1  # it has one frame


def test_every_frame_may_be_drawn_and_none_after_the_end():
    model = create(model="DbofModel", iterations=1000)
    chosen = model._sample(tf.constant([10, 1, 0]), training=True).numpy()
    assert [sorted(set(row)) for row in chosen] == [list(range(10)), [0], [0]]


def test_dropout_is_for_training_alone(videos):
    model = create(model="NetVladModel", pooling_dropout=0.5)
    without = create(model="NetVladModel")
    for variable, same in zip(without.variables, model.variables, strict=True):
        variable.assign(same)
    assert np.array_equal(predict(model, videos), predict(without, videos))
    assert not np.allclose(vector(model, videos), vector(without, videos))


def test_lstm_starts_with_a_forget_bias_of_1():
    bias = Weights(create(model="LstmModel"))("lstm_cell/bias")
    assert bias.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6


@pytest.mark.parametrize(
    "flags, layers",
    [({"model": "LstmModel", "lstm_layers": 1}, 1), ({"model": "GruModel", "gru_layers": 3}, 3)],
)
def test_the_number_of_layers(flags, layers):
    paths = [variable.path for variable in create(**flags).trainable_variables]
    assert sum(path.endswith("recurrent_kernel") for path in paths) == layers


def test_nextvlad_widens_to_whole_groups():
    # 3 * 2 in 4 groups of 1, and 2 * 2 in 4 of 1.
    weights = Weights(create(model="NeXtVladModel", nextvlad_groups=4))
    assert weights("widen/kernel", 0).shape == (3, 4)
    assert weights("widen/kernel", 1).shape == (2, 4)


# Batch normalisation.


def test_batch_norm_in_training_is_by_the_batch():
    norm = BatchNorm()
    got = norm(tf.constant([[1.0, 10.0], [3.0, 10.0]]), training=True)
    # Means 2 and 10, variances 1 and 0.
    expected = np.array([[-1.0, 0.0], [1.0, 0.0]]) / np.sqrt(1.001)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_batch_norm_is_over_all_axes_but_the_last():
    values = tf.random.stateless_normal([4, 5, 2], [0, 0]) * 3 + 1
    got = BatchNorm()(values, training=True).numpy().reshape(-1, 2)
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(got.var(axis=0), 1, rtol=1e-2)


def test_moving_averages_are_plain_means_at_first():
    norm = BatchNorm()
    for batch in ([[1.0], [3.0]], [[4.0], [8.0]], [[0.0], [1.0]]):  # means 2, 6, 0.5
        norm(tf.constant(batch), training=True)
    np.testing.assert_allclose(norm.mean, [8.5 / 3], rtol=1e-6)
    np.testing.assert_allclose(norm.variance, [(1 + 4 + 0.25) / 3], rtol=1e-6)


def test_moving_averages_decay_by_999_in_1000_later():
    norm = BatchNorm()
    norm(tf.constant([[5.0], [5.0]]), training=True)
    norm.updates.assign(1e6)
    norm(tf.constant([[15.0], [15.0]]), training=True)
    np.testing.assert_allclose(norm.mean, [0.999 * 5 + 0.001 * 15], rtol=1e-6)


def test_batch_norm_is_ready_to_predict_after_one_batch():
    norm, batch = BatchNorm(), tf.constant([[1.0, -4.0], [3.0, 6.0]])
    in_training = norm(batch, training=True)
    np.testing.assert_allclose(norm(batch), in_training, atol=1e-6)


def test_moving_averages_are_never_poisoned():
    norm = BatchNorm()
    norm(tf.constant([[1.0], [3.0]]), training=True)
    norm(tf.constant([[np.nan], [3.0]]), training=True)
    norm(tf.constant([[np.inf], [3.0]]), training=True)
    assert norm.mean.numpy().tolist() == [2.0]
    assert norm.variance.numpy().tolist() == [1.0]


@pytest.mark.parametrize("shape", [(2,), ()], ids=["vectors of 2", "a mask of 1 axis"])
def test_batch_norm_leaves_padding_out(shape):
    # Values 1, 3 and 5 count: mean 3, variance 8 / 3.
    values = tf.constant([[[1.0], [3.0], [100.0]], [[5.0], [100.0], [100.0]]])
    mask = tf.constant([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    if not shape:
        values, mask = tf.reshape(values, [6, 1]), tf.reshape(mask, [6])
    norm = BatchNorm()
    got = tf.boolean_mask(norm(values, training=True, mask=mask), mask).numpy()
    np.testing.assert_allclose(got[:, 0], np.array([-2, 0, 2]) / np.sqrt(8 / 3 + 0.001), rtol=1e-6)
    assert norm.mean.value.numpy() == pytest.approx([3.0])
    assert norm.variance.value.numpy() == pytest.approx([8 / 3])


@pytest.mark.parametrize("name", ["NetVladModel", "NeXtVladModel", "AttentionModel", "DbofModel"])
def test_padding_does_not_change_the_vector_in_training(name):
    flags = TrainConfig(**SMALL | {"model": name}).model_flags
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, [6, 10, 5]).astype(np.uint8)
    num_frames = tf.constant([10, 9, 8, 10, 7, 10])
    padded = np.concatenate([frames, np.zeros([6, 290, 5], np.uint8)], axis=1)
    vectors = []
    for features in (frames, padded):
        keras.utils.set_random_seed(1)
        model = registry.create(flags)
        vectors.append(model.vector(tf.constant(features), num_frames, training=True))
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-3, atol=1e-4)
