"""Options of the train step and what follows it: mixup, averaged weights, recalibration."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.data.input_pipeline import HeldOut
from trainer.evaluation import evaluator
from trainer.models import kernels, recalibration, registry
from trainer.serving import loading, saved_model
from trainer.training import distribution, losses
from trainer.training.loop import train
from trainer.training.step import Trainer

EVERYTHING = {
    "model": "GatedMlpModel",
    "gated_mlp_size": 6,
    "optimizer": "AdamWOptimizer",
    "learning_rate_schedule": "cosine",
    "warmup_steps": 3,
    "mixup": 0.4,
    "ema_decay": 0.9,
    "calibration_fraction": 0.3,
}


@pytest.fixture
def batch(make_config):
    config = make_config()
    files = sorted(tf.io.gfile.glob(config.train_data_pattern))
    return next(iter(input_pipeline.batches(files, config.record_format, 8)))


@pytest.mark.slow
@pytest.mark.parametrize("export_model_steps", [1000, 1])
def test_a_run_with_everything_resumes_bit_for_bit(
    make_config, weights, tmp_path, export_model_steps
):
    flags = EVERYTHING | {"export_model_steps": export_model_steps}
    whole = make_config(**flags, train_dir=str(tmp_path / "whole"))
    train(whole)
    for max_steps in (1, 4, None):
        config = make_config(**flags, max_steps=max_steps)
        train(config)
    expected, got = weights(whole.train_dir), weights(config.train_dir)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.tobytes() == expected[name].tobytes(), name


@pytest.mark.slow
def test_the_averaged_and_recalibrated_model_is_evaluated_and_exported(make_config, tmp_path):
    config = make_config(**EVERYTHING | {"model": "LogisticModel"}, base_learning_rate=0.05)
    train(config)
    trained = loading.load(config.train_dir)
    saved_model.export(config.train_dir, str(tmp_path / "exported"))
    exported = loading.load(str(tmp_path / "exported"))
    files = sorted(tf.io.gfile.glob(config.train_data_pattern))
    batch = next(iter(input_pipeline.batches(files, config.record_format, 8)))
    np.testing.assert_allclose(trained.predict(batch), exported.predict(batch), rtol=1e-3)
    model, _, step = loading.restore(config.train_dir)
    assert model.recalibration.fitted_step == step
    outputs = registry.call(model, input_pipeline.model_inputs(batch), training=False)
    assert not np.allclose(registry.uncalibrated(model, outputs), trained.predict(batch))
    evaluator.evaluate(config.train_dir, config.train_data_pattern)


def test_averages_follow_the_weights(make_config, batch):
    config = make_config(ema_decay=0.5)
    trainer = Trainer(config, tf.distribute.get_strategy())
    before = [weight.numpy() for weight in trainer.weights]
    trainer.step(batch)
    after = [weight.numpy() for weight in trainer.weights]
    # The decay of the n-th step is min(0.5, n / (n + 10)): 1/11 at first.
    for average, old, new in zip(trainer.averages, before, after, strict=True):
        np.testing.assert_allclose(average, old / 11 + new * 10 / 11, rtol=1e-5, atol=1e-7)
    with trainer.averaged() as model:
        assert np.array_equal(model.trainable_variables[0].numpy(), trainer.averages[0].numpy())
    assert np.array_equal(trainer.weights[0].numpy(), after[0])


def test_mixup_trains_on_mixtures_of_two_videos(make_config, batch, monkeypatch):
    weight = np.linspace(0.5, 1, 8, dtype=np.float32)
    monkeypatch.setattr(Trainer, "_mixing", lambda self, n: tf.constant(weight))
    config = make_config(mixup=0.4, optimizer="GradientDescentOptimizer", clip_gradient_norm=0.0)
    config = dataclasses.replace(config, regularization_penalty=0.0)
    trainer = Trainer(config, tf.distribute.get_strategy())
    before = [tf.constant(variable) for variable in trainer.weights]
    with tf.GradientTape() as tape:
        features = batch["features"].numpy()
        mixed = weight[:, None] * features + (1 - weight[:, None]) * np.roll(features, 1, axis=0)
        predictions = registry.predict(trainer.model, {"features": tf.constant(mixed)})
        labels = losses.multi_hot(batch["labels"], 5)
        own, other = (
            losses.cross_entropy(each, predictions) for each in (labels, tf.roll(labels, 1, 0))
        )
        loss = tf.reduce_mean(weight * own + (1 - weight) * other)
    gradients = tape.gradient(loss, trainer.weights)
    trainer.step(batch)
    for old, new, gradient in zip(before, trainer.weights, gradients, strict=True):
        np.testing.assert_allclose(new, old - 0.01 * gradient, rtol=1e-4, atol=1e-6)


def test_mixing_weights_are_new_in_each_step_and_at_least_one_half(make_config):
    trainer = Trainer(make_config(mixup=0.4), tf.distribute.get_strategy())
    first, second = (trainer._mixing(1000).numpy() for _ in range(2))
    assert (first >= 0.5).all() and (first <= 1).all()
    assert not np.array_equal(first, second)
    # The mean of max(x, 1 - x) for x from Beta(0.4, 0.4).
    draws = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    assert first.mean() == pytest.approx(np.maximum(draws, 1 - draws).mean(), abs=0.02)


def test_mixup_of_frames_is_refused():
    from trainer.config import TrainConfig

    with pytest.raises(UserError, match=r"--mixup needs video-level features; got --mixup=0\.4"):
        TrainConfig(mixup=0.4, model="DbofModel", frame_features=True)


def test_frames_are_sampled_on_the_host_as_on_the_device(make_config, frame_shards, monkeypatch):
    monkeypatch.setattr(kernels, "has_gpu", lambda: True)
    flags = {"model": "DbofModel", "iterations": 3, "dbof_cluster_size": 6, "dbof_hidden_size": 5}
    config = make_config(**flags, frame_features=True, train_data_pattern=frame_shards)
    files = sorted(tf.io.gfile.glob(frame_shards))
    batch = next(iter(input_pipeline.batches(files, config.record_format, 8)))
    split, num_frames, variables = distribution.split, [], []

    def counting(strategy, batch, batch_size):
        num_frames.append(batch["features"][0].shape[1])
        return split(strategy, batch, batch_size)

    monkeypatch.setattr(distribution, "split", counting)
    for on_host in (True, False):
        trainer = Trainer(config, tf.distribute.get_strategy())
        assert trainer.model.samples_on_host
        trainer.model.samples_on_host = on_host
        for _ in range(2):
            trainer.step(batch)
        variables.append([each.numpy().tobytes() for each in trainer.variables.values()])
    assert num_frames == [3, 3, 300, 300]
    assert variables[0] == variables[1]


def test_held_out_videos_are_not_trained_on(make_config):
    config = make_config()
    files = sorted(tf.io.gfile.glob(config.train_data_pattern))
    held_out = HeldOut(0.3)

    def ids(batches):
        return [video for batch in batches for video in batch["id"].numpy()]

    every = ids(input_pipeline.batches(files, config.record_format, 8))
    kept_back = ids(input_pipeline.batches(files, config.record_format, 8, held_out=held_out))
    trained = input_pipeline.training_batches(
        files, config.record_format, 8, 1, 2, 0, held_out=held_out
    )
    trained = ids(batch for batch, _ in trained)
    assert sorted(trained + kept_back) == sorted(every)
    assert 3 <= len(kept_back) <= 20


def test_holding_out_no_video_is_an_error(make_config):
    with pytest.raises(UserError, match=r"--calibration_fraction=0\.0001 holds out no training"):
        train(make_config(calibration_fraction=0.0001))


def test_recalibration_recovers_known_probabilities():
    # The true log odds are 2 log p + 1: with 200,000 samples, known within 0.05.
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, [200_000, 1])
    values = np.concatenate([np.log(p), np.ones_like(p)], axis=1)
    truth = 1 / (1 + np.exp(-(2 * np.log(p[:, 0]) + 1)))
    weights = recalibration.fit(values, rng.random(len(p)) < truth)
    assert weights == pytest.approx([2, 1], abs=0.05)


def test_a_recalibration_that_was_not_fitted_changes_nothing():
    layer = recalibration.Recalibration(3)
    probabilities = tf.constant([[0.2, 0.5, 0.9]])
    assert np.array_equal(layer(probabilities), probabilities)


def test_recalibration_by_hand():
    layer = recalibration.Recalibration(2)
    layer.log_counts.assign([0.0, 3.0])
    layer.coefficients.assign([1, 0, 0, 0.5, 0, 0.25, 0, 2, -1])
    layer.fitted_step.assign(1)
    p = np.array([[0.2, 0.6]])
    logits = np.log(p) + 0.5 * np.array([0, 3]) + 0.25 * np.log(0.6) + 2 * 0.8 - 1
    got = layer(tf.constant(p, tf.float32))
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), rtol=1e-5)
