"""KernelModel against its definition, as a teacher, and in an ensemble."""

import numpy as np
import pytest
import tensorflow as tf

from trainer import ensemble
from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.evaluation import evaluator
from trainer.models import kernel_ridge, registry
from trainer.run_dir import checkpoints
from trainer.serving import loading, saved_model
from trainer.training.distillation import Teacher
from trainer.training.loop import train

KERNEL = {"model": "KernelModel", "kernel_centers": 50}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def fitted(make_config):
    """A fitted model of 12 videos with 3 + 2 features and 5 classes; features; labels; LOO."""
    model = registry.create(make_config(**KERNEL, kernel_ridge=0.1).model_flags)
    rng = np.random.default_rng(0)
    features = rng.normal(size=[12, 5]).astype(np.float32)
    labels = (rng.random([12, 5]) < 0.4).astype(np.float32)
    return model, features, labels, model.fit_closed_form(features, labels)


def expected(features, labels, queries, ridge=0.1, gamma=None, scale=None):
    """The definition in float64."""
    scale = features[:, :3].var(axis=0) if scale is None else scale
    weigh = lambda x: np.c_[unit(x[:, :3] * scale), 0.45 * unit(x[:, 3:])]  # noqa: E731
    a, b = weigh(features.astype(np.float64)), weigh(queries.astype(np.float64))
    distances = ((a[:, None] - a) ** 2).sum(axis=2)
    gamma = gamma or 1 / np.median(distances)
    solved = np.linalg.solve(np.exp(-gamma * distances) + ridge * np.eye(len(a)), labels)
    return np.exp(-gamma * ((b[:, None] - a) ** 2).sum(axis=2)) @ solved, gamma


def test_predictions_are_those_of_kernel_ridge_regression(fitted):
    model, features, labels, _ = fitted
    queries = np.random.default_rng(1).normal(size=[4, 5]).astype(np.float32)
    outputs = registry.call(model, {"features": tf.constant(queries)}, training=False)
    np.testing.assert_allclose(outputs, expected(features, labels, queries)[0], atol=1e-4)
    predictions = registry.predict(model, {"features": tf.constant(queries)}).numpy()
    assert ((predictions >= 0) & (predictions <= 1)).all()


def test_leave_one_out_predictions_are_those_of_a_fit_without_the_video(fitted):
    _, features, labels, leave_one_out = fitted
    _, gamma = expected(features, labels, features)
    scale = features[:, :3].var(axis=0)
    for i in range(len(features)):
        rest = np.arange(len(features)) != i
        without, _ = expected(
            features[rest], labels[rest], features[i : i + 1], gamma=gamma, scale=scale
        )
        np.testing.assert_allclose(leave_one_out[i], without[0], atol=1e-3)


def test_the_kernel_of_a_video_with_itself_is_1():
    kernel, _ = kernel_ridge.gaussian_kernel(np.eye(4, dtype=np.float32))
    assert np.allclose(np.diag(kernel), 1)


def test_trains_once_evaluates_and_exports(make_config, weights, tmp_path, caplog):
    config = make_config(**KERNEL, calibration_fraction=0.3)
    assert train(config) == 1
    before = weights(config.train_dir)
    assert train(config) == 1  # nothing to do
    assert all(np.array_equal(before[n], v) for n, v in weights(config.train_dir).items())
    saved_model.export(config.train_dir, str(tmp_path / "exported"))
    metrics = evaluator.evaluate(str(tmp_path / "exported"), config.train_data_pattern).metrics
    assert metrics["hit_at_1"] > 0.6


def test_more_videos_than_centers_are_left_out_with_a_warning(make_config, caplog):
    train(make_config(model="KernelModel", kernel_centers=20))
    assert "Training on 20 of 37 videos: --kernel_centers=20." in caplog.text


@pytest.mark.slow
def test_a_student_learns_from_soft_targets(make_config, weights, tmp_path):
    teacher = make_config(**KERNEL, train_dir=str(tmp_path / "teacher"))
    train(teacher)
    files = sorted(tf.io.gfile.glob(teacher.train_data_pattern))
    batch = next(iter(input_pipeline.batches(files, teacher.record_format, 8)))
    targets = Teacher(teacher.train_dir).targets(batch)
    assert targets["soft_classes"].shape == targets["soft_values"].shape == (8, 5)
    unknown = batch | {"id": tf.constant([b"unknown"] * 8)}
    assert (Teacher(teacher.train_dir).targets(unknown)["soft_classes"].numpy() == -1).all()

    flags = {"mixup": 0.4, "teacher_dir": teacher.train_dir, "teacher_weight": 0.7}
    student = make_config(**flags)
    train(student)
    alone = make_config(mixup=0.4, train_dir=str(tmp_path / "alone"))
    train(alone)
    got, without = (
        np.concatenate([v.ravel() for v in weights(c.train_dir).values() if v.dtype == np.float32])
        for c in (student, alone)
    )
    assert not np.array_equal(got, without)


def test_a_teacher_without_soft_targets_is_an_error(make_config, trained):
    with pytest.raises(UserError, match="No soft targets in --teacher_dir="):
        train(make_config(teacher_dir=trained))


@pytest.mark.slow
def test_an_ensemble_averages_its_members(make_config, tmp_path):
    pattern = make_config().train_data_pattern
    members = []
    for name, flags in (("a", {}), ("b", KERNEL), ("c", {"seed": 3})):
        config = make_config(**flags, train_dir=str(tmp_path / name))
        train(config)
        members.append(config.train_dir)
    folder = str(tmp_path / "ensemble")
    ensemble.main(["ensemble", f"--member_dirs={','.join(members)}", f"--train_dir={folder}"])
    saved_model.export(folder, str(tmp_path / "exported"))
    files = sorted(tf.io.gfile.glob(pattern))
    batch = next(iter(input_pipeline.batches(files, make_config().record_format, 8)))
    mean = np.mean([loading.load(member).predict(batch) for member in members], axis=0)
    for model_dir in (folder, str(tmp_path / "exported")):
        np.testing.assert_allclose(loading.load(model_dir).predict(batch), mean, rtol=1e-4)
    assert checkpoints.latest_step(folder) == 10


def test_members_for_other_classes_are_an_error(make_config, tmp_path, save_logistic_model):
    train(make_config(train_dir=str(tmp_path / "a")))
    other = save_logistic_model([0.5, 0.5])
    with pytest.raises(SystemExit):
        ensemble.main(["e", f"--member_dirs={tmp_path / 'a'},{other}", f"--train_dir={tmp_path}/c"])
