"""RoutedExpertsModel: what is picked, what is computed, and what learns."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.models import registry
from trainer.models.layers import unit_features
from trainer.models.routed_experts import k_means
from trainer.training.loop import train

SMALL = {
    "model": "RoutedExpertsModel",
    "routed_experts": 4,
    "routed_experts_picked": 2,
    "routed_expert_size": 3,
    "routed_soft_steps": 0,
    "routed_dropout": 0.0,
}
FEATURES = np.random.default_rng(0).normal(size=[20, 5]).astype(np.float32)


@pytest.fixture
def make_model(make_config):
    """make_model(**flags): a model for 3 + 2 features and 5 classes, routing at random weights."""

    def make(**flags):
        model = registry.create(make_config(**SMALL | flags).model_flags)
        model.router.kernel.assign(np.random.default_rng(1).normal(size=[5, 4]) * 5)
        return model

    return make


def weights_of(model):
    vectors = unit_features(tf.constant(FEATURES), [3, 2])
    return vectors, model.router(vectors / 5**0.5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("shared", [False, True])
def test_predictions_are_the_weighted_mean_of_the_picked_experts(make_model, shared):
    model = make_model(routed_shared_expert=shared)
    vectors, weights = weights_of(model)
    expected = np.zeros([20, 5])
    common = model.shared(vectors).numpy() if shared else 0
    for number, expert in enumerate(model.experts):
        weight = weights.numpy()[:, number, None]
        expected += weight * sigmoid(expert(vectors).numpy() + common)
    got = registry.predict(model, {"features": tf.constant(FEATURES)})
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("picked", [1, 2, 4])
def test_the_most_probable_experts_are_picked(make_model, picked):
    model = make_model(routed_experts_picked=picked)
    vectors, weights = weights_of(model)
    probabilities = model.router.probabilities(vectors / 5**0.5).numpy()
    weights = weights.numpy()
    assert ((weights > 0).sum(axis=1) == picked).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    lowest_picked = np.where(weights > 0, probabilities, 1).min(axis=1)
    highest_other = np.where(weights > 0, 0, probabilities).max(axis=1)
    assert (lowest_picked >= highest_other).all()


def test_experts_learn_only_from_the_videos_that_they_are_picked_for(make_model):
    model = make_model(routed_experts_picked=1)
    _, weights = weights_of(model)
    chosen = weights.numpy().argmax(axis=1)
    video = tf.constant(FEATURES[:1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(registry.call(model, {"features": video}, training=True))
    kernels = [expert.classes.kernel.value for expert in model.experts]
    gradients = tape.gradient(loss, kernels, unconnected_gradients="zero")
    learning = [bool(tf.reduce_any(tf.convert_to_tensor(g) != 0)) for g in gradients]
    assert learning == [number == chosen[0] for number in range(4)]


def test_all_experts_learn_in_the_soft_steps(make_model):
    model = make_model(routed_experts_picked=1, routed_soft_steps=1)
    vectors = unit_features(tf.constant(FEATURES), [3, 2])
    counts = [
        int(tf.reduce_sum(tf.cast(model.router(vectors, training=True) > 0, tf.int32)))
        for _ in range(2)
    ]
    assert counts == [20 * 4, 20]
    assert (model.router(vectors).numpy() > 0).sum() == 20  # and never in prediction


def test_the_balancing_bias_spreads_the_load(make_model):
    model = make_model(routed_experts_picked=1, routed_balance_rate=0.05)
    model.router.bias.assign([10.0, 0.0, 0.0, 0.0])
    model.router.kernel.assign(tf.zeros([5, 4]) + tf.random.stateless_normal([5, 4], [0, 0]))
    vectors = unit_features(tf.constant(FEATURES), [3, 2])
    before = (model.router(vectors).numpy() > 0).sum(axis=0)
    for _ in range(300):
        model.router(vectors, training=True)
    after = (model.router(vectors).numpy() > 0).sum(axis=0)
    assert before[0] == 20
    assert after.max() < before.max()


def test_random_routing_does_not_depend_on_the_router(make_model):
    model = make_model(routed_random=True)
    _, before = weights_of(model)
    model.router.kernel.assign(tf.zeros([5, 4]))
    _, after = weights_of(model)
    assert np.array_equal(before, after)
    assert np.allclose(np.sort(before.numpy(), axis=1), [0, 0, 0.5, 0.5])
    assert len({tuple(row) for row in before.numpy()}) > 1


def test_the_router_starts_at_clusters(make_model):
    model = make_model(routed_experts_picked=1)
    rng = np.random.default_rng(0)
    centers = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [-1, 0, 0, 0, -1]]) * 5
    cluster = np.arange(80) % 4
    videos = (centers[cluster] + rng.normal(size=[80, 5]) * 0.1 + 0.2).astype(np.float32)
    model.initialize(videos)
    vectors = unit_features(tf.constant(videos), [3, 2])
    picked = model.router(vectors / 5**0.5).numpy().argmax(axis=1)
    for number in range(4):  # the videos of a cluster go to one expert
        assert len(set(picked[cluster == number])) == 1


def test_k_means_finds_clusters():
    points = np.array([[0.0, 0], [0.2, 0], [9, 9], [9.2, 9]])
    centroids = k_means(points, 2)
    assert sorted(centroids.round(6).tolist()) == [[0.1, 0.0], [9.1, 9.0]]


@pytest.mark.slow
def test_resumes_bit_for_bit(make_config, weights, tmp_path):
    flags = SMALL | {"routed_soft_steps": 2, "routed_dropout": 0.3}
    whole = make_config(**flags, train_dir=str(tmp_path / "whole"))
    train(whole)
    for max_steps in (3, None):
        config = make_config(**flags, max_steps=max_steps)
        train(config)
    expected = weights(whole.train_dir)
    for name, value in weights(config.train_dir).items():
        assert value.tobytes() == expected[name].tobytes(), name
