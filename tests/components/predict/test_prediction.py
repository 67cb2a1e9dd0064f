"""Batch prediction: one complete file per input file, whatever the runner and whoever kills it."""

import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from components.predict.prediction import predict
from components.predict.report import label_drift, write_report
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.examples import encode_example
from trainer.data.input_pipeline import Position
from trainer.data.tfrecord import read_records, write_records
from trainer.serving import loading
from trainer.serving.options import PredictionOptions
from trainer.serving.prediction import predict_to_file

NUM_CLASSES, SIZES = 4, (5, 0, 3, 1)


def write_shard(path: Path, size: int, rng: np.random.Generator) -> None:
    records = [
        encode_example({"id": f"{path.stem}-{i}", "rgb": rng.normal(size=3).astype(np.float32)})
        for i in range(size)
    ]
    write_records(str(path), records)


@pytest.fixture
def data(tmp_path) -> Path:
    """Folder of four shards with 9 videos in all; one is empty, two have the same file name."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    for name, size in zip(("a/x", "a/y", "b/x", "b/z"), SIZES, strict=True):
        write_shard(folder / f"{name}.tfrecord", size, rng)
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    """The train_dir of a LogisticModel with random weights."""
    from trainer.config import TrainConfig
    from trainer.models import registry
    from trainer.run_dir import checkpoints

    folder = str(tmp_path_factory.mktemp("model") / "model")
    config = TrainConfig(
        train_dir=folder, feature_names="rgb", feature_sizes="3", num_classes=NUM_CLASSES
    )
    variables = registry.variables(registry.create(config.model_flags))
    checkpoints.keep_model_flags(folder, config.model_flags)
    checkpoints.save(folder, variables, checkpoints.State(7, Position(), "", {}), 1)
    return folder


def outputs(folder) -> dict[str, bytes]:
    """Name -> content of all files below a folder."""
    folder = Path(folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_one_file_per_shard_and_their_sum(model_dir, data, tmp_path):
    output = str(tmp_path / "output")
    summary = predict(model_dir, f"{data}/*/*.tfrecord", output, PredictionOptions(top_k=2))
    assert [file["videos"] for file in summary["files"]] == list(SIZES)
    model = loading.load(model_dir)
    for file in summary["files"]:
        expected = str(tmp_path / "expected.csv")
        predict_to_file(model, [file["input"]], expected, PredictionOptions(top_k=2))
        assert storage.read_text(file["predictions"]) == storage.read_text(expected)
    assert [os.path.relpath(file["predictions"], output) for file in summary["files"]] == [
        f"predictions/{name}.tfrecord.csv" for name in ("a/x", "a/y", "b/x", "b/z")
    ]
    statistics = summary["statistics"]
    assert (statistics["videos"], statistics["without_id"]) == (9, 0)
    assert sum(statistics["top_classes"]) == sum(statistics["top_probabilities"]) == 9
    assert json.loads(storage.read_text(f"{output}/predictions.json")) == summary


def test_complete_files_are_not_predicted_again(model_dir, data, tmp_path):
    output = str(tmp_path / "output")
    arguments = (model_dir, f"{data}/*/*.tfrecord", output, PredictionOptions())
    first = predict(*arguments)
    before = {path: os.stat(path).st_mtime_ns for path in Path(output).rglob("*.csv")}
    Path(output, "shards/b/x.tfrecord.json").unlink()  # killed before the file was recorded
    Path(output, "predictions/a/.x.tfrecord.csv.0.tmp").write_text("half of a file")
    assert predict(*arguments) == first
    after = {path: os.stat(path).st_mtime_ns for path in Path(output).rglob("*.csv")}
    assert [path.parent.name for path in before if before[path] != after[path]] == ["b"]
    assert not list(Path(output).rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["input", "options", "model"])
def test_a_change_is_predicted_again(model_dir, data, tmp_path, change):
    output, options = str(tmp_path / "output"), PredictionOptions()
    predict(model_dir, f"{data}/*/*.tfrecord", output, options)
    record = Path(output, "shards/b/z.tfrecord.json")
    before = record.read_text()
    if change == "input":
        write_shard(data / "b" / "z.tfrecord", 2, np.random.default_rng(1))
    elif change == "options":
        options = PredictionOptions(top_k=1)
    else:
        from trainer.serving import saved_model

        saved_model.export(model_dir, f"{tmp_path}/exported")
        model_dir = f"{tmp_path}/exported"
    predict(model_dir, f"{data}/*/*.tfrecord", output, options)
    assert record.read_text() != before
    if change == "input":
        assert len(Path(output, "predictions/b/z.tfrecord.csv").read_text().splitlines()) == 3


def test_predictions_of_other_files_are_refused(model_dir, data, tmp_path):
    output = str(tmp_path / "output")
    predict(model_dir, f"{data}/*/*.tfrecord", output, PredictionOptions())
    (data / "b" / "z.tfrecord").unlink()
    with pytest.raises(
        UserError, match=r"predictions of other files, e\.g\. '.*b/z\.tfrecord\.csv"
    ):
        predict(model_dir, f"{data}/*/*.tfrecord", output, PredictionOptions())


def test_a_bad_record_is_named_and_the_other_files_are_kept(model_dir, data, tmp_path):
    bad = data / "b" / "z.tfrecord"
    bad.write_bytes(bad.read_bytes()[:-1])
    output = tmp_path / "output"
    with pytest.raises(UserError, match=r"z\.tfrecord, record 1: truncated"):
        predict(model_dir, f"{data}/*/*.tfrecord", str(output), PredictionOptions())
    assert not (output / "predictions" / "b" / "z.tfrecord.csv").exists()
    assert not (output / "predictions.json").exists()


@pytest.mark.slow
def test_twenty_kills_leave_no_half_file(model_dir, data, tmp_path):
    """SIGKILL at random moments, of writing too; then the same files as of one quiet run."""
    record = next(read_records(str(data / "a" / "x.tfrecord")))
    for number in range(40):
        write_records(f"{data}/many/{number:02}.tfrecord", [record] * 2000)
    pattern, expected = f"{data}/many/*.tfrecord", tmp_path / "expected"
    predict(model_dir, pattern, str(expected), PredictionOptions(batch_size=32))
    complete = outputs(expected / "predictions")

    output = tmp_path / "output"
    # Processes that are forked from one that has loaded TensorFlow start in no time.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["components.predict.pipeline", "trainer.serving.prediction"])
    rng = random.Random(0)
    for _ in range(20):
        arguments = (model_dir, pattern, str(output), PredictionOptions(batch_size=32))
        process = processes.Process(target=predict, args=arguments)
        process.start()
        before = len(list(output.rglob("*.json")))
        while process.is_alive() and len(list(output.rglob("*.json"))) == before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.join()
        written = outputs(output / "predictions")
        finished = {name for name in written if not name.endswith(".tmp")}
        assert all(written[name] == complete[name] for name in finished)
        if len(finished) == 40:  # start again, to be killed as often as promised
            for path in [*(output / "shards").rglob("*.json")][::2]:
                path.unlink()
    predict(model_dir, pattern, str(output), PredictionOptions(batch_size=32))
    assert outputs(output / "predictions") == complete


def test_label_drift_by_hand():
    predicted = {"videos": 100, "expected_labels": [50.0, 50.0]}
    assert label_drift(predicted, {"videos": 100, "labels": [70, 30]})["linf"] == pytest.approx(0.2)
    assert label_drift(predicted, {"videos": 0, "labels": [0, 0]}) is None


@pytest.mark.slow
@pytest.mark.parametrize("with_baseline", [False, True])
def test_report(model_dir, data, tmp_path, with_baseline):
    output, baseline = str(tmp_path / "output"), ""
    predict(model_dir, f"{data}/*/*.tfrecord", output, PredictionOptions())
    if with_baseline:
        baseline = f"{tmp_path}/statistics.json"
        split = {"videos": 50, "labels": [20, 10, 10, 10]}
        storage.write_text(baseline, json.dumps({"splits": {"train": split}}))
    write_report(output, baseline)
    html = storage.read_text(f"{output}/report.html")
    assert "Predictions for 9 videos" in html
    assert ("Jensen-Shannon distance" in html) == with_baseline


def test_the_report_names_the_classes_as_the_model_does(tmp_path):
    statistics = {"videos": 2, "without_id": 0, "without_classes": 0}
    statistics |= {"top_probabilities": [0, 2], "top_classes": [0, 2], "expected_labels": [0.1, 2]}
    summary = {"model_dir": str(tmp_path), "options": {}, "files": [], "statistics": statistics}
    storage.write_text(f"{tmp_path}/predictions.json", json.dumps(summary))
    storage.write_text(f"{tmp_path}/class_names.json", json.dumps({"names": ["Car", "Piano"]}))
    write_report(str(tmp_path))
    html = storage.read_text(f"{tmp_path}/report.html")
    assert "<td>Piano</td>" in html
    assert "<td>Car</td>" not in html
