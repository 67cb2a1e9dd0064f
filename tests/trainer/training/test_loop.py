"""Training: what a step does, what a run leaves behind, and that no run is ever lost."""

import dataclasses
import json
import logging
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.paths import ROOT
from trainer import train as command
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.data.examples import encode_example
from trainer.data.tfrecord import read_records, write_records
from trainer.evaluation import evaluator
from trainer.models import registry
from trainer.training import progress
from trainer.training.loop import train
from trainer.training.step import Trainer

STEPS_OF_AN_EPOCH = 5  # 37 videos in batches of 8


def assert_same(weights, expected):
    """Bit for bit."""
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert value.tobytes() == expected[name].tobytes(), name


@pytest.fixture(scope="module")
def left_behind() -> dict:
    """What `never_stopped` returned already, by its flags."""
    return {}


@pytest.fixture
def never_stopped(make_config, weights, tmp_path, left_behind):
    """never_stopped(**flags): what the same run leaves that nobody stops."""

    def run(**flags):
        key = str(sorted(flags.items()))
        if key not in left_behind:
            config = make_config(**flags | {"train_dir": str(tmp_path / "never stopped")})
            train(config)
            left_behind[key] = weights(config.train_dir)
        return left_behind[key]

    return run


def steps_of(train_dir, kind="checkpoints") -> list[int]:
    folders = (Path(train_dir) / kind).glob("*step-*")
    return sorted(int(folder.name.removeprefix("step-")) for folder in folders)


def messages(caplog) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.name == "root")


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"model": "LogisticModel"}, id="LogisticModel"),
        pytest.param({"model": "MoeModel"}, id="MoeModel", marks=pytest.mark.slow),
        pytest.param({"mixed_precision": True}, id="mixed precision", marks=pytest.mark.slow),
    ],
)
def test_learns(make_config, flags):
    train(make_config(**flags, max_steps=1, base_learning_rate=1e-9))
    config = make_config(**flags, num_epochs=40, base_learning_rate=0.1)
    before = evaluator.evaluate(config.train_dir, config.train_data_pattern).metrics
    assert train(config) == 40 * STEPS_OF_AN_EPOCH
    after = evaluator.evaluate(config.train_dir, config.train_data_pattern).metrics
    assert before["gap"] < 0.6  # 2 of 5 classes are true
    assert after["gap"] > 0.85
    assert after["loss"] < before["loss"]


# A frame-level run.
FRAME_LEVEL = {
    "frame_features": True,
    "batch_size": 4,
    "iterations": 5,
    "dbof_cluster_size": 6,
    "dbof_hidden_size": 5,
    "lstm_cells": 3,
    "gru_cells": 3,
    "vlad_cluster_size": 2,
    "nextvlad_groups": 2,
    "attention_heads": 2,
    "pooling_hidden_size": 5,
    "pooling_dropout": 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, mixed_precision",
    [
        ("FrameLevelLogisticModel", False),
        ("DbofModel", True),
        ("AttentionModel", False),
        ("GruModel", False),
        ("LstmModel", True),
    ],
)
def test_every_frame_level_model_learns(make_config, frame_shards, model, mixed_precision):
    flags = FRAME_LEVEL | {"pooling_dropout": 0.0, "train_data_pattern": frame_shards}
    flags |= {"model": model, "mixed_precision": mixed_precision}
    train(make_config(**flags, max_steps=1, base_learning_rate=1e-9))
    config = make_config(**flags, num_epochs=30, base_learning_rate=0.05)
    before = evaluator.evaluate(config.train_dir, frame_shards).metrics
    train(config)
    after = evaluator.evaluate(config.train_dir, frame_shards).metrics
    assert after["loss"] < 0.7 * before["loss"]
    assert after["hit_at_1"] > before["hit_at_1"]


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize("model", [n for n, m in registry.MODELS.items() if not m.closed_form])
def test_every_model_trains_in_both_types(make_config, frame_shards, model, mixed_precision):
    flags = {"model": model, "mixed_precision": mixed_precision}
    if registry.MODELS[model].frame_level:
        flags |= FRAME_LEVEL | {"pooling_dropout": 0.0, "train_data_pattern": frame_shards}
    config = make_config(**flags, max_steps=1, base_learning_rate=1e-9)
    train(config)
    before = evaluator.evaluate(config.train_dir, config.train_data_pattern).metrics
    train(make_config(**flags, num_epochs=10, base_learning_rate=0.02))
    after = evaluator.evaluate(config.train_dir, config.train_data_pattern).metrics
    assert after["loss"] < before["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("model", registry.names(frame_level=True))
def test_every_frame_level_model_learns_from_audioset(make_config, real_data, model):
    flags = FRAME_LEVEL | {
        "model": model,
        "train_data_pattern": f"{real_data}/audioset/bal_train/*00.tfrecord",
        "feature_names": "audio_embedding",
        "feature_sizes": "128",
        "num_classes": 527,
        "batch_size": 100,
    }
    config = make_config(**flags, base_learning_rate=0.05)
    train(config)
    metrics = evaluator.evaluate(config.train_dir, config.train_data_pattern).metrics
    assert metrics["num_videos"] > 1000
    assert metrics["loss"] < 100  # of 527 classes that know nothing yet: 365
    assert metrics["gap"] > 0.05  # guessing gives 0.005


@pytest.mark.slow
@pytest.mark.parametrize("model", registry.names(frame_level=False))
def test_every_video_level_model_learns_from_real_means(make_config, real_data, model):
    config = make_config(
        model=model,
        train_data_pattern=f"{real_data}/yt8m2018/video/validate000[0-3].tfrecord",
        feature_names="mean_rgb,mean_audio",
        feature_sizes="1024,128",
        num_classes=3862,
        batch_size=100,
        num_epochs=2,
    )
    train(config)
    others = f"{real_data}/yt8m2018/video/validate000[45].tfrecord"
    assert evaluator.evaluate(config.train_dir, others).metrics["gap"] > 0.2


# What a step does.


def initial_and_next(make_config, weights, tmp_path, **flags):
    """A LogisticModel's kernel and bias before and after its first step."""
    results = []
    for rate in (1e-30, flags.pop("base_learning_rate", 0.5)):
        train_dir = str(tmp_path / f"rate {rate}")
        flags |= {"train_dir": train_dir, "max_steps": 1, "base_learning_rate": rate}
        train(make_config(optimizer="GradientDescentOptimizer", **flags))
        values = [v for v in weights(train_dir).values() if v.dtype == np.float32]
        results += sorted(values, key=np.ndim, reverse=True)
    kernel, bias, next_kernel, next_bias = results
    assert (kernel.shape, bias.shape) == ((5, 5), (5,))
    return kernel, bias, next_kernel, next_bias


def gradient_of(videos, kernel, bias):
    """Of the batch's mean cross-entropy, for kernel and bias, in float64."""
    x = videos["features"].numpy().astype(np.float64)
    x /= np.sqrt((x**2).sum(axis=1, keepdims=True))
    y = (videos["labels"].numpy()[:, :, None] == np.arange(5)).any(axis=1)
    p = 1 / (1 + np.exp(-(x @ kernel + bias)))
    of_p = np.where(y, -1 / (p + 1e-5), 1 / (1 - p + 1e-5))
    of_scores = of_p * p * (1 - p) / len(x)
    return x.T @ of_scores, of_scores.sum(axis=0)


@pytest.fixture
def all_videos(make_config):
    config = make_config()
    files = sorted(glob(config.train_data_pattern))
    return next(iter(input_pipeline.batches(files, config.record_format, 100)))


def test_a_step_follows_the_gradient_of_the_batchs_mean_loss(
    make_config, weights, tmp_path, all_videos
):
    kernel, bias, next_kernel, next_bias = initial_and_next(
        make_config, weights, tmp_path, batch_size=100, clip_gradient_norm=0.0
    )
    of_kernel, of_bias = gradient_of(all_videos, kernel, bias)
    np.testing.assert_allclose(next_kernel, kernel - 0.5 * of_kernel, atol=1e-6)
    np.testing.assert_allclose(next_bias, bias - 0.5 * of_bias, atol=1e-6)


def test_gradients_are_clipped_variable_by_variable(make_config, weights, tmp_path, all_videos):
    kernel, bias, next_kernel, next_bias = initial_and_next(
        make_config, weights, tmp_path, batch_size=100, clip_gradient_norm=0.2
    )
    for gradient, change in zip(
        gradient_of(all_videos, kernel, bias), (kernel - next_kernel, bias - next_bias), strict=True
    ):
        norm = np.linalg.norm(gradient)
        assert norm > 0.2
        np.testing.assert_allclose(change, 0.5 * gradient * 0.2 / norm, atol=1e-6)


def test_the_regularization_penalty_weighs_half_the_kernels_squares(
    make_config, weights, tmp_path, all_videos
):
    # 1e8 times the gradient of 1e-8 * sum(kernel ** 2) / 2 is the kernel itself.
    kernel, bias, next_kernel, next_bias = initial_and_next(
        make_config,
        weights,
        tmp_path,
        batch_size=100,
        clip_gradient_norm=0.0,
        regularization_penalty=1e8,
    )
    of_kernel, of_bias = gradient_of(all_videos, kernel, bias)
    np.testing.assert_allclose(next_kernel, kernel - 0.5 * (of_kernel + kernel), atol=1e-6)
    np.testing.assert_allclose(next_bias, bias - 0.5 * of_bias, atol=1e-6)


def test_the_label_loss_decides_the_step(make_config, weights):
    results = []
    for label_loss in ("CrossEntropyLoss", "HingeLoss", "SoftmaxLoss"):
        config = make_config(label_loss=label_loss, max_steps=1, start_new_model=True)
        train(config)
        values = weights(config.train_dir).items()
        results.append(b"".join(v.tobytes() for _, v in values if v.dtype == np.float32))
    assert len(set(results)) == 3


def test_the_learning_rate_falls_over_the_run_and_not_per_process(make_config, weights):
    # A batch is a stair, and the second one is too low for any step to show.
    flags = {
        "optimizer": "GradientDescentOptimizer",
        "learning_rate_decay": 1e-30,
        "learning_rate_decay_examples": 8.0,
    }
    config = make_config(max_steps=1, **flags)
    train(config)
    first = weights(config.train_dir)
    for more in (2, 4):
        train(make_config(max_steps=more, **flags))
        values = weights(config.train_dir)
        assert all((values[n] == v).all() for n, v in first.items() if v.dtype == np.float32)


@pytest.mark.slow
def test_an_optimizer_goes_on_with_its_slots(make_config, never_stopped, weights):
    for max_steps in (3, None):
        train(make_config(optimizer="FtrlOptimizer", max_steps=max_steps))
    expected = never_stopped(optimizer="FtrlOptimizer")
    assert_same(weights(make_config().train_dir), expected)


# How long a run is.


def test_max_steps_ends_a_run_and_counts_from_its_beginning(make_config):
    assert train(make_config(max_steps=3)) == 3
    assert train(make_config(max_steps=4)) == 4
    assert steps_of(make_config().train_dir) == [3, 4]


@pytest.mark.parametrize("max_steps", [None, 0, 1000])
def test_a_run_ends_after_its_epochs_and_leaves_its_last_checkpoint(make_config, max_steps):
    config = make_config(max_steps=max_steps)
    assert train(config) == 2 * STEPS_OF_AN_EPOCH
    assert steps_of(config.train_dir) == [10]
    flags = json.loads((Path(config.train_dir) / "model_flags.json").read_text())
    assert flags == config.model_flags


@pytest.mark.parametrize(
    "flags, steps, done",
    [
        ({"max_steps": 3}, 3, "Nothing to train: --max_steps=3 was reached already."),
        ({}, 10, "Nothing to train: all 2 epochs were completed already, in 10 steps."),
    ],
)
def test_a_finished_run_has_nothing_to_do(make_config, weights, caplog, flags, steps, done):
    train(make_config(**flags))
    before = weights(make_config().train_dir)
    with caplog.at_level(logging.INFO):
        assert train(make_config(**flags)) == steps
    assert done in messages(caplog)
    assert "Resuming" not in messages(caplog)
    assert steps_of(make_config().train_dir) == [steps]
    assert_same(weights(make_config().train_dir), before)


@pytest.mark.parametrize(
    "model", ["LogisticModel", pytest.param("MoeModel", marks=pytest.mark.slow)]
)
def test_xla_gives_the_same_weights_up_to_rounding(make_config, never_stopped, weights, model):
    train(make_config(model=model, max_steps=2, xla=True))
    expected = never_stopped(model=model, max_steps=2)
    for name, value in weights(make_config().train_dir).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_more_epochs_take_a_finished_run_on(make_config, never_stopped, weights):
    assert train(make_config(num_epochs=1)) == STEPS_OF_AN_EPOCH
    assert train(make_config(num_epochs=3)) == 3 * STEPS_OF_AN_EPOCH
    assert_same(weights(make_config().train_dir), never_stopped(num_epochs=3))


# The same command, the same weights.


@pytest.mark.parametrize(
    "flags",
    [
        {},
        pytest.param({"model": "MoeModel", "num_readers": 1, "seed": 3}, marks=pytest.mark.slow),
    ],
)
def test_the_same_command_twice_gives_the_same_weights(make_config, never_stopped, weights, flags):
    train(make_config(**flags))
    assert_same(weights(make_config().train_dir), never_stopped(**flags))


def test_files_are_read_one_by_one_or_in_turns(make_config, write_videos, tmp_path, weights):
    rng = np.random.default_rng(4)
    for shard in "ab":  # 16 videos of each in turn
        features = [{"rgb": rng.normal(size=3), "audio": rng.normal(size=2)} for _ in range(20)]
        videos = [(f"{shard}{i}", [i % 5], each) for i, each in enumerate(features)]
        write_videos(tmp_path / f"{shard}.tfrecord", videos)
    flags = {"train_data_pattern": f"{tmp_path}/*.tfrecord", "max_steps": 1}
    after_a_step = []
    for num_readers in (1, 2):
        config = make_config(**flags, num_readers=num_readers, start_new_model=True)
        train(config)
        values = weights(config.train_dir).items()
        after_a_step.append(b"".join(v.tobytes() for _, v in values if v.dtype == np.float32))
    assert after_a_step[0] != after_a_step[1]


def test_another_seed_gives_other_weights(make_config, never_stopped, weights):
    train(make_config(seed=1))
    expected = never_stopped()
    got = weights(make_config().train_dir)
    assert any((got[name] != value).any() for name, value in expected.items())


@pytest.mark.parametrize(
    "model, stops",
    [
        ("LogisticModel", [5]),
        pytest.param("MoeModel", [5], marks=pytest.mark.slow),
        pytest.param("MoeModel", [1, 4, 9], marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_equals_never_stopped(
    make_config, never_stopped, weights, model, stops
):
    for stop in stops:
        assert train(make_config(model=model, max_steps=stop)) == stop
    assert train(make_config(model=model)) == 10
    assert_same(weights(make_config().train_dir), never_stopped(model=model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["DbofModel", "FrameLevelLogisticModel", "GruModel", "LstmModel", "NetVladModel"]
)
def test_a_frame_level_run_goes_on_with_its_random_numbers(
    make_config, never_stopped, weights, frame_shards, model
):
    flags = FRAME_LEVEL | {"model": model, "train_data_pattern": frame_shards}
    for max_steps in (3, None):  # of 8, on 14 videos twice
        train(make_config(**flags, max_steps=max_steps))
    assert_same(weights(make_config().train_dir), never_stopped(**flags))


def test_how_often_checkpoints_are_written_changes_nothing_else(
    make_config, never_stopped, weights
):
    train(make_config(export_model_steps=3))
    assert_same(weights(make_config().train_dir), never_stopped())


# What a run leaves behind.


def test_checkpoints_and_exports_are_periodic_and_few(make_config):
    config = make_config(export_model_steps=2, keep_checkpoints=2, num_epochs=1)
    train(config)
    assert steps_of(config.train_dir) == [4, 5]
    assert steps_of(config.train_dir, "export") == [2, 4]
    exported = evaluator.evaluate(
        f"{config.train_dir}/export/step-00000004", config.train_data_pattern
    )
    assert exported.step == 4


def test_checkpoints_are_written_every_so_many_minutes_too(make_config):
    config = make_config(checkpoint_minutes=1e-9, keep_checkpoints=100, num_epochs=1)
    train(config)
    assert steps_of(config.train_dir) == [1, 2, 3, 4, 5]
    assert not (Path(config.train_dir) / "export").exists()


def test_a_model_is_started_anew_only_on_request(make_config, caplog):
    train(make_config(max_steps=3))
    keep = Path(make_config().train_dir) / "notes.txt"
    keep.write_text("mine")
    with caplog.at_level(logging.INFO):
        assert train(make_config(max_steps=2, start_new_model=True, model="MoeModel")) == 2
    assert steps_of(make_config().train_dir) == [2]
    assert "Created a new MoeModel" in messages(caplog)
    assert keep.read_text() == "mine"


def test_a_retry_with_start_new_model_continues_what_the_command_began(
    make_config, never_stopped, weights, monkeypatch, caplog
):
    train(make_config(max_steps=2, seed=1))  # an older model
    config = make_config(start_new_model=True, checkpoint_minutes=1e-9)
    step, steps = Trainer.step, []

    def fail(self, *args):
        steps.append(args)
        if len(steps) == 4:
            raise KeyboardInterrupt  # the node is lost
        return step(self, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", fail)
        train(config)
    newest = steps_of(config.train_dir)[-1]
    assert newest >= 2
    with caplog.at_level(logging.INFO):
        assert train(config) == 10
    assert f"Resuming at step {newest}" in messages(caplog)
    assert_same(weights(config.train_dir), never_stopped())
    assert train(make_config(start_new_model=True, max_steps=1)) == 1  # another command


def test_the_learning_rate_decays_by_the_examples_seen(make_config):
    # 37 examples in 5 steps of an epoch; then 3 steps of 4.
    flags = {"learning_rate_decay": 0.5, "learning_rate_decay_examples": 10.0}
    train(make_config(num_epochs=1, **flags))
    config = make_config(batch_size=4, max_steps=8, **flags)
    train(config)
    rates = events(config.train_dir, "train/learning_rate")
    assert rates[1] == pytest.approx(0.01)
    assert rates[6] == pytest.approx(0.01 / 2**3)  # after 37 examples
    assert rates[8] == pytest.approx(0.01 / 2**4)  # after 45


def test_changed_flags_are_obeyed_and_told_on_resuming(make_config, caplog):
    train(make_config(max_steps=3))
    with caplog.at_level(logging.INFO):
        steps = train(make_config(batch_size=4, base_learning_rate=0.5, num_epochs=1))
    assert steps == 3 + 4  # 24 of 37 videos are done; 13 are left, 4 at a time
    told = messages(caplog)
    assert "Resuming at step 3, epoch 1." in told
    assert "--batch_size changed from 8 to 4." in told
    assert "--base_learning_rate changed from 0.01 to 0.5." in told
    assert "--num_epochs changed from 2 to 1." in told
    assert "--max_steps changed from 3 to None." in told
    assert "--seed" not in told


def test_changed_files_start_the_epoch_again_with_a_warning(
    make_config, write_videos, tmp_path, caplog
):
    train(make_config(max_steps=7))
    features = {"rgb": np.ones(3), "audio": np.ones(2)}
    more = write_videos(tmp_path / "more.tfrecord", [(f"m{i}", [0], features) for i in range(3)])
    pattern = f"{make_config().train_data_pattern},{more}"
    with caplog.at_level(logging.WARNING):
        steps = train(make_config(train_data_pattern=pattern))
    assert steps == 7 + 5  # the second epoch anew, now with 40 videos
    assert "restarting epoch 2 from its beginning" in messages(caplog)


# Mistakes.

MISTAKES = [
    ({"train_data_pattern": None}, r"--train_data_pattern must be given"),
    ({"train_data_pattern": ""}, r"--train_data_pattern must be given"),
    ({"train_dir": ""}, r"--train_dir must be given"),
    ({"train_data_pattern": "/no/such/folder/*.tfrecord"}, r"/no/such/folder/\*\.tfrecord"),
    ({"label_loss": "Crossentropy"}, r"--label_loss must be one of .*'Crossentropy'"),
    ({"optimizer": "Adam"}, r"--optimizer must be one of .*'Adam'"),
    ({"model": "Logistic"}, r"--model must be one of .*'Logistic'"),
]


@pytest.mark.parametrize("flags, message", MISTAKES)
def test_a_mistake_leaves_nothing_behind(make_config, flags, message):
    with pytest.raises(UserError, match=message):
        train(make_config(**flags))
    assert not Path(make_config().train_dir).exists()


def test_a_mistake_leaves_an_earlier_model_alone(make_config, weights):
    train(make_config(max_steps=1))
    before = weights(make_config().train_dir)
    for flags, message in MISTAKES:
        with pytest.raises(UserError, match=message):
            train(make_config(start_new_model=True, **flags))
        assert_same(weights(make_config().train_dir), before)


def test_what_does_not_fit_the_data_is_named_and_can_be_corrected(make_config):
    for flags, message in [
        ({"feature_sizes": "3,3"}, r"record \d+: 'audio' must be 3 floats, found 2"),
        ({"feature_names": "mean_rgb,audio"}, r"record \d+: no video-level feature 'mean_rgb'"),
        ({"num_classes": 3}, r"label [34] is out of range: expected 0 to 2"),
        ({"frame_features": True, "model": "FrameLevelLogisticModel"}, r"no frame-level feature"),
    ]:
        with pytest.raises(UserError, match=message):
            train(make_config(**flags))
    assert train(make_config(max_steps=1)) == 1


def test_a_model_of_another_shape_is_refused_and_kept(make_config, weights):
    train(make_config(max_steps=1))
    before = weights(make_config().train_dir)
    with pytest.raises(UserError, match=r"--model was 'LogisticModel', is now 'MoeModel'"):
        train(make_config(model="MoeModel"))
    assert_same(weights(make_config().train_dir), before)


def test_another_optimizer_is_refused_on_resuming(make_config, weights):
    train(make_config(max_steps=1))
    before = weights(make_config().train_dir)
    message = r"missing: optimizer/accumulator/.*; unexpected: optimizer/m/.*"
    with pytest.raises(UserError, match=message):
        train(make_config(optimizer="AdagradOptimizer"))
    assert_same(weights(make_config().train_dir), before)


def test_a_train_dir_that_cannot_be_written_is_named(make_config, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="file"):
        train(make_config(train_dir=str(tmp_path / "file" / "model")))


def test_a_bad_record_ends_training_and_leaves_the_checkpoints(make_config, tmp_path, weights):
    good = sorted(glob(make_config().train_data_pattern))
    features = {"rgb": [1.0, 2.0], "audio": [1.0, 2.0]}
    bad = str(tmp_path / "bad.tfrecord")
    write_records(
        bad, [*read_records(good[0]), encode_example({"id": b"x", "labels": [1]} | features)]
    )
    train(make_config(max_steps=1))
    before = weights(make_config().train_dir)
    with pytest.raises(UserError) as raised:
        train(make_config(train_data_pattern=",".join([*good, bad])))
    assert str(raised.value) == f"{bad}, record 10: 'rgb' must be 3 floats, found 2."
    assert_same(weights(make_config().train_dir), before)


def test_bad_records_can_be_left_out(make_config, tmp_path, caplog):
    good = sorted(glob(make_config().train_data_pattern))
    bad = tmp_path / "bad.tfrecord"
    write_records(str(bad), [b"\xff" * 20, *read_records(good[0])])
    bad.write_bytes(bad.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        steps = train(make_config(train_data_pattern=str(bad), skip_bad_records=True, num_epochs=1))
    assert steps == 1  # 8 of its 10 records
    assert f"Skipped record: {bad}, record 1: expected a tf.Example" in messages(caplog)
    assert f"Skipped record: {bad}, record 10: truncated" in messages(caplog)
    assert "Skipped 2 bad records in total." in messages(caplog)


def test_shards_without_any_video_are_a_mistake(make_config, tmp_path):
    write_records(str(tmp_path / "empty.tfrecord"), [])
    with pytest.raises(UserError, match="contain no videos"):
        train(make_config(train_data_pattern=f"{tmp_path}/empty.tfrecord"))
    assert not steps_of(make_config().train_dir)


@pytest.fixture
def poisoned(make_config, write_videos, tmp_path) -> str:
    """The shards, and one with a video whose features are not finite."""
    features = {"rgb": np.array([1.0, np.nan, 2.0]), "audio": np.ones(2)}
    path = write_videos(tmp_path / "poisoned.tfrecord", [("bad", [1], features)])
    return f"{make_config().train_data_pattern},{path}"


def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(make_config, weights, poisoned):
    config = make_config(train_data_pattern=poisoned, checkpoint_minutes=1e-9, num_epochs=1)
    with pytest.raises(
        UserError, match=r"NaN or infinite at step \d+.*poisoned\.tfrecord, record 1"
    ):
        train(config)
    if steps_of(config.train_dir):
        assert all(np.isfinite(v).all() for v in weights(config.train_dir).values())


def test_a_learning_rate_that_is_too_high_is_named(make_config, weights):
    config = make_config(
        optimizer="GradientDescentOptimizer", base_learning_rate=1e38, clip_gradient_norm=0.0
    )
    with pytest.raises(UserError, match=r"Its features are finite, so.*learning_rate \(1e\+38\)"):
        train(config)
    assert all(np.isfinite(v).all() for v in weights(config.train_dir).values())


@pytest.mark.parametrize("max_steps", [None, 1])
@pytest.mark.parametrize("skip_bad_batches", [False, True])
def test_weights_that_overflow_are_not_saved(make_config, max_steps, skip_bad_batches):
    config = make_config(
        optimizer="GradientDescentOptimizer",
        base_learning_rate=1e39,
        max_steps=max_steps,
        skip_bad_batches=skip_bad_batches,
    )
    message = r"weights are NaN or infinite after step 1.*learning_rate \(1e\+39\).*none yet"
    with pytest.raises(UserError, match=message):
        train(config)
    assert not steps_of(config.train_dir)


@pytest.mark.parametrize("skip_bad_batches", [False, True])
def test_a_batch_that_is_not_finite_may_have_ids_that_are_not_text(
    make_config, tmp_path, skip_bad_batches
):
    record = encode_example({"id": b"\xff\xfe", "rgb": [np.nan, 1.0, 1.0], "audio": [1.0, 1.0]})
    write_records(str(tmp_path / "bad.tfrecord"), [record])
    config = make_config(
        train_data_pattern=f"{make_config().train_data_pattern},{tmp_path}/bad.tfrecord",
        skip_bad_batches=skip_bad_batches,
        num_epochs=1,
    )
    if skip_bad_batches:
        assert train(config) == 4
        return
    with pytest.raises(UserError, match=r"bad\.tfrecord, record 1: its features must be finite"):
        train(config)


def test_a_bad_record_is_counted_once(make_config, tmp_path, caplog):
    good = sorted(glob(make_config().train_data_pattern))
    bad = tmp_path / "bad.tfrecord"
    write_records(str(bad), [b"\xff" * 20, *read_records(good[0])])
    with caplog.at_level(logging.WARNING):
        train(make_config(train_data_pattern=str(bad), skip_bad_records=True, num_epochs=4))
    assert messages(caplog).count("Skipped record") == 1
    assert "Skipped 1 bad record in total." in messages(caplog)


@pytest.mark.parametrize("max_steps", [None, 6])
def test_a_train_dir_that_is_removed_during_training_is_a_mistake(
    make_config, monkeypatch, max_steps
):
    config = make_config(max_steps=max_steps)
    step, steps = Trainer.step, []

    def remove(self, *args):
        steps.append(args)
        if len(steps) == 5:
            shutil.rmtree(config.train_dir)
        return step(self, *args)

    monkeypatch.setattr(Trainer, "step", remove)
    with pytest.raises(UserError, match="was removed during training"):
        train(config)


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**70])
def test_a_seed_out_of_range_is_a_mistake(make_config, seed):
    with pytest.raises(UserError, match=f"--seed must be from 0 to 4294967294; got {seed}"):
        make_config(seed=seed)


def test_the_largest_seed_will_do(make_config):
    assert train(make_config(seed=2**32 - 2, max_steps=1)) == 1


def test_the_result_of_a_step_is_read_after_the_next_one_was_started(make_config, monkeypatch):
    # So that an accelerator never waits for Python.
    order = []
    step = Trainer.step

    class Flag:
        def __init__(self, number):
            self.number = number

        def __bool__(self):
            order.append(f"read {self.number}")
            return True

    def traced(self, *args):
        result = step(self, *args)
        order.append(f"start {len(order)}")
        return result | {"finite": Flag(order[-1].removeprefix("start "))}

    monkeypatch.setattr(Trainer, "step", traced)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 1e9)
    train(make_config(num_epochs=1))
    started = [index for index, event in enumerate(order) if event.startswith("start")]
    assert len(started) == STEPS_OF_AN_EPOCH
    for number, index in list(enumerate(started))[1:-1]:  # the first one is logged
        assert order[index + 1] != f"read {number}"
        assert f"read {index}" in order[started[number + 1] :]


def test_batches_that_are_not_finite_can_be_left_out(make_config, weights, poisoned, caplog):
    config = make_config(
        train_data_pattern=poisoned, skip_bad_batches=True, batch_size=1, num_epochs=1
    )
    with caplog.at_level(logging.WARNING):
        assert train(config) == 37
    batch = f"in the batch with the videos bad ... of {config.train_data_pattern}."
    assert f"{batch} Skipped this batch." in messages(caplog)
    assert all(np.isfinite(v).all() for v in weights(config.train_dir).values())


def test_shards_without_labels_are_told_of(make_config, write_videos, tmp_path, caplog):
    features = {"rgb": np.ones(3), "audio": np.ones(2)}
    path = write_videos(tmp_path / "test.tfrecord", [("a", [], features), ("b", [], features)])
    with caplog.at_level(logging.WARNING):
        train(make_config(train_data_pattern=str(path), num_epochs=1))
    assert messages(caplog).count("No video in the first batch has labels") == 1
    caplog.clear()
    train(make_config(train_dir=str(tmp_path / "other"), num_epochs=1))
    assert "No video in the first batch" not in messages(caplog)


# What a run tells beside its log lines.


def events(train_dir, tag=None) -> dict:
    """TensorBoard summaries: (tag, step) -> value; or step -> value of a tag."""
    told = {}
    for file in Path(train_dir, "events").glob("*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                told[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return {step: value for (name, step), value in told.items() if name == tag} if tag else told


def test_tensorboard_is_told_of_the_run(make_config):
    config = make_config(max_steps=3, learning_rate_decay=0.5, learning_rate_decay_examples=8.0)
    train(config)
    told = events(config.train_dir)
    for name in ("loss", "hit_at_1", "perr", "gap", "examples_per_sec", "waiting_for_input"):
        assert ("train/" + name, 1) in told
        assert ("train/" + name, 3) in told
    assert told["train/learning_rate", 1] == pytest.approx(0.01)
    assert told["train/learning_rate", 3] == pytest.approx(0.0025)
    assert told["train/gradient_norm", 1] > 0
    assert 0 <= told["train/waiting_for_input", 1] <= 1


# Ended from outside. A process starts with what it needs imported already, as often as needed.


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.train", "trainer.training.loop"])
    return context


def arguments(config) -> list[str]:
    """The command line of a config."""
    default = TrainConfig()
    names = [field.name for field in dataclasses.fields(config)]
    values = {name: getattr(config, name) for name in names}
    return ["trainer/train.py"] + [
        f"--{name}={value}" for name, value in values.items() if value != getattr(default, name)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(make_config, never_stopped, weights, number):
    config = make_config(num_epochs=100_000)
    command = [sys.executable, "-m", "trainer.train", *arguments(config)[1:]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stderr:
            if "training step" in line:
                break
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait() == 128 + number
    (step,) = steps_of(config.train_dir)
    assert f"after step {step}" in rest.splitlines()[-1]
    assert "Traceback" not in rest
    train(make_config(num_epochs=100_000, max_steps=step + 2))
    assert_same(weights(config.train_dir), never_stopped(num_epochs=100_000, max_steps=step + 2))


# A run whose input never comes.
WAIT_FOR_INPUT = """
import sys, time
from trainer.data import input_pipeline
from trainer.train import main
input_pipeline._Shards._begin = lambda *_: time.sleep(60)
main(sys.argv)
"""


@pytest.mark.slow
def test_a_second_interrupt_ends_a_run_at_once_while_it_waits_for_input(make_config):
    command = [sys.executable, "-c", WAIT_FOR_INPUT, *arguments(make_config())[1:]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in process.stderr:
            if "Created a new" in line:
                break
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        for line in process.stderr:
            if "Press Ctrl-C again" in line:
                break
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
        assert time.monotonic() - sent < 5
    assert "Traceback" not in rest


# Lets a run kill itself at its n-th look at, or change to, a file or folder of its own.
KILL_AT_FILE_OPERATION = """
import os, signal, sys
from trainer import train

seen = 0

def count(event, arguments):
    global seen
    if arguments and isinstance(arguments[0], str | bytes | os.PathLike):
        if os.fsdecode(arguments[0]).startswith(TRAIN_DIR):
            seen += 1
            if seen == KILL_AT:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
train.main(ARGUMENTS)
"""


def run(process, kill_after: float | None = None) -> bool:
    """Whether the process was killed; else it ended well."""
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_killed_at_any_file_operation_and_resumed_equals_never_killed(
    make_config, never_stopped, weights, processes
):
    flags = {"model": "MoeModel", "checkpoint_minutes": 1e-9, "export_model_steps": 7}
    config = make_config(**flags)
    kills, rng = 0, np.random.default_rng(0)
    while True:
        names = {
            "TRAIN_DIR": config.train_dir,
            "KILL_AT": int(rng.integers(1, 60)),
            "ARGUMENTS": arguments(config),
        }
        process = processes.Process(target=exec, args=(KILL_AT_FILE_OPERATION, names))
        if not run(process):
            break
        kills += 1
    assert kills > 5
    assert steps_of(config.train_dir) == [8, 9, 10]
    assert_same(weights(config.train_dir), never_stopped(**flags))


@pytest.mark.slow
@pytest.mark.parametrize("frame_level", [False, True], ids=["video level", "frame level"])
def test_killed_at_random_moments_and_resumed_equals_never_killed(
    make_config, never_stopped, weights, processes, frame_shards, frame_level
):
    flags = {"num_epochs": 300, "checkpoint_minutes": 0.001}
    if frame_level:
        flags |= FRAME_LEVEL | {"model": "DbofModel", "train_data_pattern": frame_shards}
    config = make_config(**flags)
    moments = iter(np.random.default_rng(0).uniform(0.5, 3, 8))
    while run(
        processes.Process(target=command.main, args=(arguments(config),)), next(moments, None)
    ):
        pass
    assert_same(weights(config.train_dir), never_stopped(**flags))


@pytest.mark.slow
def test_the_process_ends_after_a_damaged_record(tmp_path):
    """Its reading threads must not outlive the error: Python would wait for them for ever."""
    path = tmp_path / "cut.tfrecord"
    vector = np.ones(1152, np.float32)
    write_records(str(path), [encode_example({"id": "v", "labels": [0], "rgb": vector})] * 5)
    path.write_bytes(path.read_bytes()[:-1000])
    words = ["--feature_names=rgb", "--feature_sizes=1152", f"--train_data_pattern={path}"]
    ended = subprocess.run(
        [sys.executable, "-m", "trainer.train", *words, f"--train_dir={tmp_path}/model"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: {path}, record 5: truncated")
