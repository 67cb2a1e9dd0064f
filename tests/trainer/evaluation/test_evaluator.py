"""Evaluation: equal to a plain computation, for any batch size."""

import json
import re
import subprocess
import sys
from glob import glob

import numpy as np
import pytest
import tensorflow as tf

from pipeline.paths import ROOT
from trainer import evaluate as command
from trainer.common import console
from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.data.examples import encode_example
from trainer.data.tfrecord import read_records, write_records
from trainer.evaluation import evaluator
from trainer.evaluation.evaluator import evaluate, evaluate_pair
from trainer.evaluation.metrics import METRICS, HitAt1, Metric
from trainer.serving import loading, saved_model
from trainer.serving.options import PredictionOptions
from trainer.serving.prediction import predict_to_file
from trainer.training import losses
from trainer.training.loop import train


def plain_average_precision(pairs, num_positives):
    """The sum of the precision at each hit of (score, hit) pairs, over num_positives."""
    hits, total = 0, 0.0
    for rank, (_, hit) in enumerate(sorted(pairs, reverse=True), start=1):
        hits += hit
        total += hit * hits / rank
    return total / num_positives


def plain_metrics(p, y, top_k) -> dict:
    """google/youtube-8m's metrics of probabilities and multi-hot labels, [videos, num_classes]."""
    num_videos, num_classes = p.shape
    hits, perr, pairs = [], [], []
    for scores, labels in zip(p, y, strict=True):
        order = np.argsort(-scores)
        n = int(labels.sum())
        hits.append(labels[order[0]])
        perr.append(labels[order[:n]].sum() / n if n else 0)
        pairs += [(scores[c], labels[c], c) for c in order[:top_k]]
    classes = [c for c in range(num_classes) if y[:, c].any()]
    precisions = [
        plain_average_precision([(s, h) for s, h, of in pairs if of == c], y[:, c].sum())
        for c in classes
    ]
    log_likelihood = y * np.log(p + 1e-5) + (1 - y) * np.log(1 - p + 1e-5)
    return {
        "gap": plain_average_precision([(s, h) for s, h, _ in pairs], y.sum()),
        "hit_at_1": np.mean(hits),
        "perr": np.mean(perr),
        "map": np.mean(precisions),
        "loss": -log_likelihood.sum(axis=1).mean(),
        "num_videos": num_videos,
        "num_videos_without_labels": int((y.sum(axis=1) == 0).sum()),
        "num_classes_with_videos": len(classes),
    }


@pytest.fixture(scope="module")
def predictions_and_labels(trained, video_shards):
    """Probabilities and multi-hot labels of the videos, [37, 5] float64."""
    model = loading.load(trained)
    (batch,) = input_pipeline.batches(sorted(glob(video_shards)), model.record_format, 100)
    y = (batch["labels"].numpy()[:, :, None] == np.arange(5)).any(axis=1)
    return model.predict(batch).numpy().astype(np.float64), y.astype(np.float64)


@pytest.mark.parametrize("top_k", [1, 2, 5, 20])
def test_metrics_equal_a_plain_computation(trained, video_shards, predictions_and_labels, top_k):
    expected = plain_metrics(*predictions_and_labels, top_k)
    assert expected["num_videos_without_labels"] == 1
    got = evaluate(trained, video_shards, top_k=top_k).metrics
    assert got == pytest.approx(expected, rel=1e-5)
    assert 0 < got["map"] < 1


@pytest.mark.parametrize("batch_size, num_readers", [(1, 1), (7, 2), (37, 8), (36, 3)])
def test_metrics_do_not_depend_on_batches_or_readers(
    trained, video_shards, batch_size, num_readers
):
    expected = evaluate(trained, video_shards)
    got = evaluate(trained, video_shards, batch_size, num_readers=num_readers)
    assert got.metrics.pop("loss") == pytest.approx(expected.metrics.pop("loss"), rel=1e-6)
    assert got.metrics == expected.metrics
    assert np.array_equal(got.average_precision, expected.average_precision)
    assert np.array_equal(got.num_positives, expected.num_positives)


def test_evaluation_has_counts_and_model(trained, video_shards, predictions_and_labels, tmp_path):
    (tmp_path / "names.csv").write_text("Index,Name\n3,Car\n")
    result = evaluate(trained, video_shards, vocabulary_file=f"{tmp_path}/names.csv")
    assert result.num_positives.tolist() == predictions_and_labels[1].sum(axis=0).tolist()
    assert result.average_precision.mean() == pytest.approx(result.metrics["map"])
    assert result.model_flags["model"] == "MoeModel"
    assert result.step == 10
    assert result.class_names == ["class 0", "class 1", "class 2", "Car", "class 4"]


def test_class_without_videos_has_no_average_precision(save_logistic_model, write_videos, tmp_path):
    features = {"rgb": np.ones(3), "audio": np.ones(2)}
    videos = [("a", [0], features), ("b", [0, 2], features)]
    path = write_videos(tmp_path / "videos.tfrecord", videos)
    result = evaluate(save_logistic_model([0.9, 0.8, 0.7, 0.6]), path)
    # Class 0 is true of both videos, class 2 of one: with equal scores 1 of 2, on average 3/4.
    assert result.average_precision[[0, 2]] == pytest.approx([1.0, 0.75])
    assert np.isnan(result.average_precision[[1, 3]]).all()
    assert result.metrics["num_classes_with_videos"] == 2
    assert result.metrics["map"] == pytest.approx(0.875)
    assert result.metrics["hit_at_1"] == 1.0
    assert result.metrics["perr"] == pytest.approx((1 + 1 / 2) / 2)
    loss_of_class_2 = -np.log(0.3 + 1e-5), -np.log(0.7 + 1e-5)
    others = -np.log(0.9 + 1e-5) - np.log(0.2 + 1e-5) - np.log(0.4 + 1e-5)
    assert result.metrics["loss"] == pytest.approx(others + np.mean(loss_of_class_2), rel=1e-5)


def test_exported_model_has_the_same_metrics(trained, video_shards, tmp_path):
    saved_model.export(trained, f"{tmp_path}/exported")
    expected, got = evaluate(trained, video_shards), evaluate(f"{tmp_path}/exported", video_shards)
    assert got.metrics == pytest.approx(expected.metrics, rel=1e-6)
    assert np.allclose(got.average_precision, expected.average_precision)
    assert (got.step, got.model_flags) == (expected.step, expected.model_flags)
    assert got.class_names == expected.class_names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FrameLevelLogisticModel", "LstmModel", "GruModel"])
def test_exported_frame_level_model_has_the_same_metrics_and_predictions(
    make_config, frame_shards, tmp_path, name
):
    flags = {"model": name, "frame_features": True, "train_data_pattern": frame_shards}
    config = make_config(**flags, lstm_cells=3, gru_cells=3, max_steps=3)
    train(config)
    saved_model.export(config.train_dir, f"{tmp_path}/exported")
    expected, got = (evaluate(d, frame_shards) for d in (config.train_dir, f"{tmp_path}/exported"))
    assert expected.metrics["num_videos"] == 14
    assert got.metrics == pytest.approx(expected.metrics, rel=1e-6)

    model, exported = loading.load(config.train_dir), loading.load(f"{tmp_path}/exported")
    (batch,) = input_pipeline.batches(sorted(glob(frame_shards)), model.record_format, 100)
    np.testing.assert_allclose(exported.predict(batch), model.predict(batch), rtol=1e-5)
    options = PredictionOptions(batch_size=4)
    predict_to_file(exported, sorted(glob(frame_shards)), f"{tmp_path}/predictions.csv", options)
    lines = (tmp_path / "predictions.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0].encode() for line in lines] == batch["id"].numpy().tolist()
    best = model.predict(batch).numpy().max(axis=1)
    assert [float(line.split()[1]) for line in lines] == pytest.approx(best.tolist(), rel=1e-4)


def test_evaluation_includes_a_metric_that_is_added_to_the_registry(
    trained, video_shards, monkeypatch
):
    monkeypatch.setitem(METRICS, "added", Metric("Added", "An added metric.", HitAt1))
    metrics = evaluate(trained, video_shards).metrics
    assert metrics["added"] == metrics["hit_at_1"]


def test_unlabelled_videos_are_an_error(trained, write_videos, tmp_path):
    features = {"rgb": np.ones(3), "audio": np.ones(2)}
    path = write_videos(tmp_path / "test.tfrecord", [(f"v{i}", [], features) for i in range(3)])
    with pytest.raises(UserError, match=r"None of the 3 videos in .*test\.tfrecord.* has a label"):
        evaluate(trained, path)
    write_records(path, [])
    with pytest.raises(UserError, match="None of the 0 videos"):
        evaluate(trained, path)


def test_error_names_the_record_that_cannot_be_read(trained, video_shards, tmp_path):
    path = str(tmp_path / "bad.tfrecord")
    good = list(read_records(sorted(glob(video_shards))[0]))
    bad = encode_example({"id": b"a", "labels": [5], "rgb": [1.0] * 3, "audio": [1.0] * 2})
    write_records(path, [*good, bad])
    with pytest.raises(UserError) as raised:
        evaluate(trained, path)
    assert str(raised.value) == f"{path}, record 10: label 5 is out of range: expected 0 to 4."
    with pytest.raises(UserError, match=r"nothing\.tfrecord"):
        evaluate(trained, f"{tmp_path}/nothing.tfrecord")


def test_folder_without_a_model_is_an_error(tmp_path, video_shards, make_config):
    with pytest.raises(UserError, match=r"No model in .*: expected model_flags\.json"):
        evaluate(str(tmp_path / "not there"), video_shards)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_flags.json").write_text(json.dumps(make_config().model_flags))
    with pytest.raises(UserError, match=r"No checkpoint in .*: the model was not trained yet"):
        evaluate(str(tmp_path / "model"), video_shards)


def test_command_prints_a_line_and_writes_a_file(
    trained, video_shards, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(console, "set_up", lambda: None)
    flags = [f"--train_dir={trained}", f"--eval_data_pattern={video_shards}"]
    command.main(["trainer.evaluate", *flags, f"--output_file={tmp_path}/metrics.json"])
    expected = evaluate(trained, video_shards).metrics
    assert capsys.readouterr().out == (
        f"step 10 | GAP: {expected['gap']:.3f} | Hit@1: {expected['hit_at_1']:.3f} | "
        f"PERR: {expected['perr']:.3f} | mAP: {expected['map']:.3f} | "
        f"Loss: {expected['loss']:.6f} | videos: 37 | classes with videos: 5\n"
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_command_prints_none_of_tensorflows_messages(trained, video_shards):
    flags = [f"--train_dir={trained}", f"--eval_data_pattern={video_shards}"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.evaluate", *flags],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert re.fullmatch(r"step 10 \| GAP: .*\n", done.stdout)
    assert done.stderr == ""


def test_pair_is_evaluated_in_one_pass(trained, save_logistic_model, video_shards, monkeypatch):
    other = save_logistic_model([0.9, 0.8, 0.7, 0.6, 0.5])
    expected = [evaluate(model, video_shards, batch_size=7) for model in (trained, other)]
    formats = []
    read = input_pipeline.batches_in_formats
    monkeypatch.setattr(
        input_pipeline, "batches_in_formats", lambda *args: formats.append(args[1]) or read(*args)
    )
    pair = evaluate_pair(trained, other, video_shards, batch_size=7)
    assert [len(read_in) for read_in in formats] == [1]  # one pass, parsed once for both models
    for got, alone in zip(pair, expected, strict=True):
        assert got.metrics == pytest.approx(alone.metrics, rel=1e-6)
        assert np.array_equal(got.average_precision, alone.average_precision, equal_nan=True)
    assert pair[0].videos is pair[1].videos
    assert sorted(pair[0].videos.ids)[:2] == [b"v0-0", b"v0-1"]


def test_predictions_of_videos_give_the_metrics(trained, video_shards):
    got = evaluate(trained, video_shards, batch_size=7)
    assert got.predictions.hits[:, 0].mean() == pytest.approx(got.metrics["hit_at_1"])
    assert got.predictions.precision.mean() == pytest.approx(got.metrics["perr"])
    assert got.predictions.losses.mean() == pytest.approx(got.metrics["loss"], rel=1e-5)
    assert len(got.videos) == 37
    assert got.videos.num_labels.sum() == len(got.videos.label_classes) == 72
    for video, label in zip(got.videos.label_videos, got.videos.label_classes, strict=True):
        found = got.predictions.hits[video][got.predictions.classes[video] == label]
        assert found.tolist() == [True]


def test_loss_equals_the_training_loss():
    predictions = tf.constant([[0.0, 1.0, 0.3, 0.9], [0.5, 1e-6, 0.2, 0.7], [0.1, 0.2, 0.3, 0.4]])
    labels = tf.constant([[0, 3, -1], [2, -1, -1], [-1, -1, -1]])
    expected = losses.cross_entropy(losses.multi_hot(labels, 4), predictions)
    np.testing.assert_allclose(evaluator._cross_entropy(predictions, labels), expected, rtol=1e-5)
