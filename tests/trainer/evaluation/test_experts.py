"""Analysis of mixtures of experts: by hand, and of trained models."""

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.evaluation.evaluator import evaluate
from trainer.evaluation.experts import ExpertMetrics
from trainer.models import registry
from trainer.serving import mixtures, saved_model
from trainer.training.loop import train

# One class, two experts and the dummy expert. The first two videos have the class.
GATE_PROBABILITIES = [[1.0, 0.0, 0.0], [0.0, 0.75, 0.25], [0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3]]
ENTROPY_OF_3_TO_1 = (3 * math.log(4 / 3) + math.log(4)) / 4 / math.log(3)
ENTROPY_OF_2_TO_1_TO_1 = 1.5 * math.log(2) / math.log(3)


def measure(*videos, num_classes=1):
    """ExpertMetrics of (gate probabilities [M + 1] of every class, has class 0) videos."""
    metrics = ExpertMetrics(num_classes, 3)
    gates = [[[p] * num_classes for p in probabilities] for probabilities, _ in videos]
    labels = tf.constant([[0 if positive else -1, -1] for _, positive in videos])
    metrics.add(tf.constant(gates, tf.float32), labels)
    return metrics


def assert_same(result, expected):
    for videos in ("all_videos", "positives"):
        got, wanted = getattr(result, videos), getattr(expected, videos)
        for name in ("num_videos", "gate_probabilities", "load", "entropy", "expert_entropy"):
            np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=1e-6)


@pytest.fixture
def four_videos():
    return list(zip(GATE_PROBABILITIES, [True, True, False, False], strict=True))


def test_by_hand(four_videos):
    result = measure(*four_videos).result()
    all_videos, positives = result.all_videos, result.positives
    assert all_videos.num_videos == [4] and positives.num_videos == [2]
    third = 1 / 3
    expected = [[(1.25 + third) / 4, (1 + third) / 4, (0.75 + third) / 4]]
    np.testing.assert_allclose(all_videos.gate_probabilities, expected, rtol=1e-6)
    # One video to each, and a third of the last, whose gate probabilities are equal.
    np.testing.assert_allclose(all_videos.load, [[third, third, third]], rtol=1e-6)
    total = ENTROPY_OF_3_TO_1 + ENTROPY_OF_2_TO_1_TO_1 + 1
    np.testing.assert_allclose(all_videos.entropy, [total / 4], rtol=1e-6)
    np.testing.assert_allclose(positives.gate_probabilities, [[0.5, 0.375, 0.125]])
    assert positives.load.tolist() == [[0.5, 0.5, 0]]
    np.testing.assert_allclose(positives.entropy, [ENTROPY_OF_3_TO_1 / 2], rtol=1e-6)
    # The experts' mean gate probabilities are 1/2 and 3/8, but each video uses one of them only.
    marginal_entropy = 1 / 2 * math.log(7 / 4) + 3 / 8 * math.log(7 / 3)
    np.testing.assert_allclose(result.specialization, [marginal_entropy / math.log(2)], rtol=1e-6)
    # The other two: both experts are equal, with 1/2 of the gate probability, and with 2/3.
    expected = [(1 / 2 + 2 / 3) * math.log(2) / 4]
    np.testing.assert_allclose(all_videos.expert_entropy, expected, rtol=1e-6)


def test_positives_are_counted_per_class():
    metrics = ExpertMetrics(3, 2)
    # The first video has classes 2 and 0, the second class 2.
    gates = np.array([[[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]], [[0.6, 0.4, 0.2], [0.4, 0.6, 0.8]]])
    metrics.add(tf.constant(gates, tf.float32), tf.constant([[2, 0, -1], [2, -1, -1]]))
    result = metrics.result()
    assert result.positives.num_videos.tolist() == [1, 0, 2]
    np.testing.assert_allclose(result.positives.gate_probabilities[0], [0.9, 0.1], rtol=1e-6)
    assert np.isnan(result.positives.gate_probabilities[1]).all()
    np.testing.assert_allclose(result.positives.gate_probabilities[2], [0.45, 0.55], rtol=1e-6)
    np.testing.assert_allclose(result.all_videos.gate_probabilities[1], [0.6, 0.4], rtol=1e-6)
    assert result.all_videos.load.tolist() == [[1, 0], [0.5, 0.5], [0.5, 0.5]]


def test_adding_batches_and_merging_are_the_same(four_videos):
    expected = measure(*four_videos, num_classes=2).result()
    metrics = measure(four_videos[0], num_classes=2)
    gates = tf.constant([[[p] * 2 for p in probabilities] for probabilities, _ in four_videos[1:3]])
    metrics.add(gates, tf.constant([[0], [-1]]))
    metrics.merge(measure(four_videos[3], num_classes=2))
    assert_same(metrics.result(), expected)
    assert np.isnan(expected.positives.entropy[1])  # no video has class 1


@pytest.mark.parametrize(
    "gate_probabilities, collapsed, single_expert",
    [
        ([[0.0, 0.0, 1.0], [0.1, 0.05, 0.85]], True, False),
        ([[0.0, 0.2, 0.8], [0.1, 0.05, 0.85]], False, False),
        ([[0.95, 0.05, 0.0], [0.95, 0.05, 0.0]], False, True),
        ([[0.19, 0.01, 0.8], [0.95, 0.05, 0.0]], False, True),  # relative to the other expert
        (
            [[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]],
            False,
            False,
        ),  # all load on one
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], False, False),
    ],
)
def test_collapsed_and_single_expert_classes(gate_probabilities, collapsed, single_expert):
    result = measure(*[(video, True) for video in gate_probabilities]).result()
    assert (result.collapsed, result.single_expert) == ([collapsed], [single_expert])


def test_class_without_videos_is_neither():
    result = measure(([1.0, 0.0, 0.0], False)).result()
    assert not result.collapsed.any() and not result.single_expert.any()
    assert np.isnan(result.specialization).all()


@pytest.mark.parametrize(
    "gate_probabilities, expected",
    [
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 1),
        ([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]], 0.5),  # the dummy expert has half of it
        ([[0.51, 0.49, 0.0], [0.49, 0.51, 0.0]], 0.0003),  # undecided
        ([[0.4, 0.4, 0.2], [0.1, 0.1, 0.8]], 0),  # the same, without the dummy expert
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 0),  # one expert only
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], 0),  # one expert and the dummy expert
        ([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], 0),  # the dummy expert only
    ],
)
def test_specialization_by_hand(gate_probabilities, expected):
    result = measure(*[(video, True) for video in gate_probabilities]).result()
    assert result.specialization == pytest.approx(expected, abs=2e-5)


def test_specialization_of_a_single_expert_is_0():
    metrics = ExpertMetrics(1, 2)
    metrics.add(tf.constant([[[0.9], [0.1]], [[0.2], [0.8]]]), tf.constant([[0], [0]]))
    assert metrics.result().specialization == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        {"model": "MoeModel"},
        {"model": "AttentionModel", "pooling_hidden_size": 4, "frame_features": True},
        {"model": "DbofModel", "dbof_cluster_size": 4, "frame_features": True},
    ],
)
def test_gate_probabilities_come_with_the_predictions(flags):
    small = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3}
    config = TrainConfig(**small | flags)
    model = registry.create(config.model_flags)
    assert mixtures.is_mixture(model)
    spec = input_pipeline.model_input_spec(config.record_format)
    shapes = {name: [4, *(size or 10 for size in s.shape[1:])] for name, s in spec.items()}
    inputs = {name: tf.ones(shapes[name], s.dtype) for name, s in spec.items()}
    predictions, gates = mixtures.predict(model, inputs)
    np.testing.assert_array_equal(predictions, registry.predict(model, inputs))
    assert gates.shape == (4, 3, 3)
    np.testing.assert_allclose(tf.reduce_sum(gates, axis=1), np.ones([4, 3]), rtol=1e-6)
    assert (gates[:, 0] + gates[:, 1] > predictions).numpy().all()  # experts predict less than 1


def test_gate_probabilities_by_hand():
    # Odds of the experts and the dummy expert: 1 : 2 : 1 for class 0, 1 : 1 : 6 for class 1.
    small = {"feature_names": "rgb", "feature_sizes": "1", "num_classes": 2}
    model = registry.create(TrainConfig(model="MoeModel", **small).model_flags)
    kernel = np.log([[[1, 1], [2, 1], [1, 6]]])  # [1, M + 1, num_classes]
    model.classifier.gates.kernel.assign(kernel.reshape(1, 6))
    _, gates = mixtures.predict(model, {"features": tf.constant([[3.0]])})
    expected = [[0.25, 0.125], [0.5, 0.125], [0.25, 0.75]]
    np.testing.assert_allclose(gates[0], expected, rtol=1e-6)


def test_models_without_experts():
    flags = TrainConfig(feature_names="rgb", feature_sizes="2", num_classes=3).model_flags
    assert not mixtures.is_mixture(registry.create(flags))


# Two regimes: the first feature of a video is its regime, 1 or -1, and each other feature belongs
# to a class. Videos have the class if its feature times their regime is positive, which logistic
# regression cannot learn.

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


@pytest.mark.slow
def test_experts_specialize_in_regimes_and_beat_logistic_regression(
    two_regimes, trained_on_two_regimes
):
    all_videos = f"{two_regimes}/*.tfrecord"
    logistic = evaluate(trained_on_two_regimes("LogisticModel"), all_videos)
    train_dir = trained_on_two_regimes("MoeModel")
    mixture = evaluate(train_dir, all_videos)
    assert logistic.experts is None
    assert logistic.metrics["gap"] < 0.65  # half of all classes are labels
    assert mixture.metrics["gap"] > 0.95

    loads = [
        evaluate(train_dir, f"{two_regimes}/{regime}.tfrecord").experts.positives.load
        for regime in (1, -1)
    ]
    expert = [load[:, :-1].argmax(axis=1) for load in loads]
    assert (expert[0] != expert[1]).all()
    for load, chosen in zip(loads, expert, strict=True):
        assert (load[np.arange(VALUES), chosen] > 0.9).all()
    assert (mixture.experts.specialization > 0.8).all()
    assert not (mixture.experts.collapsed | mixture.experts.single_expert).any()


@pytest.mark.slow
def test_exported_model_has_the_same_analysis(two_regimes, trained_on_two_regimes, tmp_path):
    train_dir, all_videos = trained_on_two_regimes("MoeModel"), f"{two_regimes}/*.tfrecord"
    saved_model.export(train_dir, str(tmp_path / "exported"))
    expected = evaluate(train_dir, all_videos).experts
    assert_same(evaluate(str(tmp_path / "exported"), all_videos, batch_size=70).experts, expected)
