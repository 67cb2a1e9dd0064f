"""Experts: sums by hand, the same from wherever a model comes, and that experts specialise."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.evaluation import experts
from trainer.evaluation.evaluator import evaluate
from trainer.evaluation.experts import ExpertSums
from trainer.models import registry
from trainer.serving import saved_model
from trainer.training.loop import train

# One class, two experts and the dummy. The first two videos have the class.
WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 0.75, 0.25], [0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3]]
ENTROPY_OF_3_TO_1 = (3 * math.log(4 / 3) + math.log(4)) / 4 / math.log(3)
ENTROPY_OF_2_TO_1_TO_1 = 1.5 * math.log(2) / math.log(3)


def sums_of(*videos, num_classes=1):
    """ExpertSums of (weights [M + 1], has class 0) videos, the same weights for all classes."""
    sums = ExpertSums(num_classes, 3)
    trust = tf.constant([[[w] * num_classes for w in weights] for weights, _ in videos], tf.float32)
    labels = tf.constant([[0 if present else -1, -1] for _, present in videos])
    sums.add(trust, labels)
    return sums


def assert_same(result, expected):
    for videos in ("on_all", "on_positives"):
        got, wanted = getattr(result, videos), getattr(expected, videos)
        for name in ("num_videos", "weights", "shares", "entropy", "doubt"):
            np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=1e-6)


@pytest.fixture
def four_videos():
    return list(zip(WEIGHTS, [True, True, False, False], strict=True))


def test_by_hand(four_videos):
    result = sums_of(*four_videos).results()
    on_all, on_positives = result.on_all, result.on_positives
    assert on_all.num_videos == [4] and on_positives.num_videos == [2]
    third = 1 / 3
    np.testing.assert_allclose(
        on_all.weights, [[(1.25 + third) / 4, (1 + third) / 4, (0.75 + third) / 4]], rtol=1e-6
    )
    # One video to each, and a third of the last, whose weights are equal.
    np.testing.assert_allclose(on_all.shares, [[third, third, third]], rtol=1e-6)
    total = ENTROPY_OF_3_TO_1 + ENTROPY_OF_2_TO_1_TO_1 + 1
    np.testing.assert_allclose(on_all.entropy, [total / 4], rtol=1e-6)
    np.testing.assert_allclose(on_positives.weights, [[0.5, 0.375, 0.125]])
    assert on_positives.shares.tolist() == [[0.5, 0.5, 0]]
    np.testing.assert_allclose(on_positives.entropy, [ENTROPY_OF_3_TO_1 / 2], rtol=1e-6)
    # On average the experts have weights of 1/2 and 3/8, but each video knows its own.
    spread = (1 / 2 * math.log(7 / 4) + 3 / 8 * math.log(7 / 3)) / math.log(2)
    np.testing.assert_allclose(result.specialisation, [spread], rtol=1e-6)
    # Of the other two, the third is in doubt with half its weight, the fourth with two thirds.
    np.testing.assert_allclose(on_all.doubt, [(1 / 2 + 2 / 3) * math.log(2) / 4], rtol=1e-6)


def test_a_class_counts_its_own_videos_alone():
    sums = ExpertSums(3, 2)
    # Of two videos: the first has classes 2 and 0, the second class 2.
    trust = np.array([[[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]], [[0.6, 0.4, 0.2], [0.4, 0.6, 0.8]]])
    sums.add(tf.constant(trust, tf.float32), tf.constant([[2, 0, -1], [2, -1, -1]]))
    result = sums.results()
    assert result.on_positives.num_videos.tolist() == [1, 0, 2]
    np.testing.assert_allclose(result.on_positives.weights[0], [0.9, 0.1], rtol=1e-6)
    assert np.isnan(result.on_positives.weights[1]).all()
    np.testing.assert_allclose(result.on_positives.weights[2], [0.45, 0.55], rtol=1e-6)
    np.testing.assert_allclose(result.on_all.weights[1], [0.6, 0.4], rtol=1e-6)
    assert result.on_all.shares.tolist() == [[1, 0], [0.5, 0.5], [0.5, 0.5]]


def test_batches_and_merged_sums_add_up(four_videos):
    expected = sums_of(*four_videos, num_classes=2).results()
    sums = sums_of(four_videos[0], num_classes=2)
    trust = tf.constant([[[w] * 2 for w in weights] for weights, _ in four_videos[1:3]])
    sums.add(trust, tf.constant([[0], [-1]]))
    sums.merge(sums_of(four_videos[3], num_classes=2))
    assert_same(sums.results(), expected)
    assert np.isnan(expected.on_positives.entropy[1])  # no video has class 1


@pytest.mark.parametrize(
    "weights, collapsed, single",
    [
        ([[0.0, 0.0, 1.0], [0.1, 0.05, 0.85]], True, False),
        ([[0.0, 0.2, 0.8], [0.1, 0.05, 0.85]], False, False),
        ([[0.95, 0.05, 0.0], [0.95, 0.05, 0.0]], False, True),
        ([[0.19, 0.01, 0.8], [0.95, 0.05, 0.0]], False, True),  # of what the dummy leaves
        ([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]], False, False),  # though both videos go there
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], False, False),
    ],
)
def test_which_classes_use_one_expert_only(weights, collapsed, single):
    result = sums_of(*[(video, True) for video in weights]).results()
    assert (result.collapsed, result.single) == ([collapsed], [single])


def test_a_class_without_videos_is_neither():
    result = sums_of(([1.0, 0.0, 0.0], False)).results()
    assert not result.collapsed.any() and not result.single.any()
    assert np.isnan(result.specialisation).all()


@pytest.mark.parametrize(
    "weights, expected",
    [
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 1),
        ([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]], 0.5),  # half of it is the dummy's
        ([[0.51, 0.49, 0.0], [0.49, 0.51, 0.0]], 0.0003),  # undecided
        ([[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]], 0),  # all the same, the dummy aside
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 0),  # one expert only
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], 0),  # one expert, or the dummy
        ([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], 0),  # the dummy only
    ],
)
def test_specialisation_by_hand(weights, expected):
    result = sums_of(*[(video, True) for video in weights]).results()
    assert result.specialisation == pytest.approx(expected, abs=2e-5)


def test_one_expert_alone_cannot_specialise():
    sums = ExpertSums(1, 2)
    sums.add(tf.constant([[[0.9], [0.1]], [[0.2], [0.8]]]), tf.constant([[0], [0]]))
    assert sums.results().specialisation == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        {"model": "MoeModel"},
        {"model": "AttentionModel", "pooling_hidden_size": 4, "frame_features": True},
        {"model": "DbofModel", "dbof_cluster_size": 4, "frame_features": True},
    ],
)
def test_the_weights_come_with_the_predictions(flags):
    small = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3}
    config = TrainConfig(**small | flags)
    model = registry.create(config.model_flags)
    assert experts.has_experts(model)
    spec = input_pipeline.model_input_spec(config.record_format)
    inputs = {name: tf.ones([4, *s.shape[1:]], s.dtype) for name, s in spec.items()}
    predictions, trust = experts.predict(model, inputs)
    np.testing.assert_array_equal(predictions, registry.predict(model, inputs))
    assert trust.shape == (4, 3, 3)
    np.testing.assert_allclose(tf.reduce_sum(trust, axis=1), np.ones([4, 3]), rtol=1e-6)
    assert (trust[:, 0] + trust[:, 1] > predictions).numpy().all()  # experts say less than 1


def test_the_weights_by_hand():
    # Class 0 trusts experts and dummy as 1 : 2 : 1, class 1 as 1 : 1 : 6.
    small = {"feature_names": "rgb", "feature_sizes": "1", "num_classes": 2}
    model = registry.create(TrainConfig(model="MoeModel", **small).model_flags)
    kernel = np.log([[[1, 1], [2, 1], [1, 6]]])  # [1, M + 1, num_classes]
    model.classifier.gates.kernel.assign(kernel.reshape(1, 6))
    _, trust = experts.predict(model, {"features": tf.constant([[3.0]])})
    expected = [[0.25, 0.125], [0.5, 0.125], [0.25, 0.75]]
    np.testing.assert_allclose(trust[0], expected, rtol=1e-6)


def test_models_without_experts():
    flags = TrainConfig(feature_names="rgb", feature_sizes="2", num_classes=3).model_flags
    assert not experts.has_experts(registry.create(flags))


# Two regimes. A video's first value says which it is in; its other values are one a class. In
# regime 1 the videos with a positive value have the class, in regime -1 those with a negative one:
# no logistic unit can tell.

VALUES = 4


@pytest.fixture(scope="module")
def two_regimes(tmp_path_factory, write_videos):
    """Folder with 1.tfrecord and -1.tfrecord, 300 videos of each regime."""
    folder = tmp_path_factory.mktemp("regimes")
    rng = np.random.default_rng(0)
    for regime in (1, -1):
        videos = []
        for i in range(300):
            values = rng.choice([-1.0, 1.0], VALUES) * rng.uniform(0.5, 1, VALUES)
            features = {"rgb": np.concatenate([[regime], values]).astype(np.float32)}
            videos.append((f"{regime}:{i}", np.flatnonzero(values * regime > 0), features))
        write_videos(folder / f"{regime}.tfrecord", videos)
    return folder


@pytest.fixture(scope="module")
def trained_on_two_regimes(two_regimes, tmp_path_factory):
    """trained_on_two_regimes(model): a train_dir."""
    folder = tmp_path_factory.mktemp("models")

    def trained(model):
        train_dir = str(folder / model)
        config = TrainConfig(
            train_data_pattern=f"{two_regimes}/*.tfrecord",
            train_dir=train_dir,
            feature_names="rgb",
            feature_sizes=str(1 + VALUES),
            num_classes=VALUES,
            model=model,
            batch_size=100,
            num_epochs=30,
            base_learning_rate=0.05,
        )
        train(config)
        return train_dir

    return trained


def test_experts_specialise_in_regimes_and_beat_logistic_units(two_regimes, trained_on_two_regimes):
    all_videos = f"{two_regimes}/*.tfrecord"
    of_units = evaluate(trained_on_two_regimes("LogisticModel"), all_videos)
    train_dir = trained_on_two_regimes("MoeModel")
    of_experts = evaluate(train_dir, all_videos)
    assert of_units.experts is None
    assert of_units.metrics["gap"] < 0.65  # half of all pairs are true
    assert of_experts.metrics["gap"] > 0.95

    shares = [
        evaluate(train_dir, f"{two_regimes}/{regime}.tfrecord").experts.on_positives.shares
        for regime in (1, -1)
    ]
    expert = [of_regime[:, :-1].argmax(axis=1) for of_regime in shares]
    assert (expert[0] != expert[1]).all()
    for of_regime, chosen in zip(shares, expert, strict=True):
        assert (of_regime[np.arange(VALUES), chosen] > 0.9).all()
    assert (of_experts.experts.specialisation > 0.8).all()
    assert not (of_experts.experts.collapsed | of_experts.experts.single).any()


def test_an_exported_model_shows_the_same(two_regimes, trained_on_two_regimes, tmp_path):
    train_dir, all_videos = trained_on_two_regimes("MoeModel"), f"{two_regimes}/*.tfrecord"
    saved_model.export(train_dir, str(tmp_path / "exported"))
    expected = evaluate(train_dir, all_videos).experts
    assert_same(evaluate(str(tmp_path / "exported"), all_videos, batch_size=70).experts, expected)
