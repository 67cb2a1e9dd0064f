"""From data to a served model, and back: the steps' own functions, without kfp."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.evaluate import evaluate
from components.export_model import export
from components.registry.lineage import lineage
from components.registry.registry import (
    publish,
    read_champion,
    read_manifest,
    rollback,
    versions,
)
from components.run_folder import describe
from components.train import command_line, train, train_folder, trainer_config
from components.validate_data.validation import DEFAULT, validate
from trainer.common.errors import UserError
from trainer.data import manifest
from trainer.data.examples import encode_example
from trainer.data.tfrecord import read_records, write_records

FLAGS = {"feature_names": "rgb", "feature_sizes": "3", "num_classes": 3, "batch_size": 10}


@pytest.fixture
def data(tmp_path) -> Path:
    """Two training shards and one for evaluation; the label is the index of the largest value."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for name in ("train0", "train1", "eval0"):
        vectors = rng.normal(size=[30, 3]).astype(np.float32)
        videos = [
            {"id": f"{name}-{i}".encode(), "labels": [vector.argmax()], "rgb": vector}
            for i, vector in enumerate(vectors)
        ]
        write_records(f"{tmp_path}/data/{name}.tfrecord", map(encode_example, videos))
    return tmp_path / "data"


def validated(data: Path, run: Path) -> dict[str, str]:
    """Validate the data; return each split's manifest."""
    config = trainer_config(FLAGS)
    inputs = {split: f"{data}/{split}*.tfrecord" for split in ("train", "eval")}
    validate(inputs, f"{run}/validation", config.record_format, settings=DEFAULT)
    return {split: f"{run}/validation/{split}{manifest.SUFFIX}" for split in inputs}


def run_pipeline(data: Path, output: Path, name: str, num_epochs: int) -> str:
    """Run all steps but the gate; return the published version."""
    run = output / "runs" / name
    files = validated(data, run)
    config = trainer_config(FLAGS | {"num_epochs": num_epochs, "base_learning_rate": 0.1})
    key = manifest.read(files["train"]).content_key
    train_dir = train_folder(config, str(output), key)
    describe(
        str(run),
        {"job_id": name, "commit": "0123", "images": {}, "libraries": "", "num_epochs": num_epochs},
    )
    plan = {f"{split}_data": path for split, path in files.items()} | {"train_dir": train_dir}
    (run / "plan.json").write_text(json.dumps(plan))
    train(files["train"], train_dir, command_line(config))
    published = str(output / "published")
    metrics = evaluate(train_dir, files["eval"], published, str(run / "evaluation"))
    export(train_dir, str(run / "model"), files["eval"])
    return publish(
        str(run / "model"),
        published,
        str(run / "evaluation" / "metrics.json"),
        metrics["champion_version"],
        lineage(str(run)),
    )


def served_scores(output: Path, data: Path) -> np.ndarray:
    """Scores by the served model, which is that in the folder with the highest number."""
    folder = output / "published" / "served"
    newest = max((path for path in folder.iterdir()), key=lambda path: int(path.name))
    records = list(read_records(f"{data}/eval0.tfrecord"))
    model = tf.saved_model.load(str(newest))
    return model.signatures["serving_default"](examples=tf.constant(records))["scores"].numpy()


@pytest.mark.slow
def test_publish_a_better_model_and_roll_back(data, tmp_path):
    output = tmp_path / "output"
    assert run_pipeline(data, output, "first", num_epochs=1) == "1"
    first = served_scores(output, data)
    assert run_pipeline(data, output, "second", num_epochs=20) == "2"
    second = served_scores(output, data)
    published = str(output / "published")
    shown = read_manifest(published, "2")
    assert shown["metrics"]["gap"] > read_manifest(published, "1")["metrics"]["gap"]
    assert shown["parent"] == "1"
    assert shown["lineage"]["data"]["train"]["records"] == 60
    assert shown["lineage"]["parameters"] == {"num_epochs": 20}
    assert shown["libraries"]["tensorflow"] == tf.__version__
    assert np.abs(first - second).max() > 0.01

    assert rollback(published, "a test") == "3"
    assert np.array_equal(served_scores(output, data), first)
    assert read_champion(published).version == "3"
    assert versions(published) == ["1", "2", "3"]


@pytest.mark.parametrize("change", ["swapped", "removed"])
def test_a_shard_that_changed_after_validation_fails_the_run(data, tmp_path, change):
    files = validated(data, tmp_path / "run")
    shutil.copy(data / "eval0.tfrecord", data / "train2.tfrecord")  # is not read
    assert len(manifest.expand(files["train"])) == 2
    if change == "swapped":
        shutil.copy(data / "eval0.tfrecord", data / "train1.tfrecord")
    else:
        (data / "train1.tfrecord").unlink()
    argv = command_line(trainer_config(FLAGS))
    with pytest.raises(UserError, match=r"1 of the 2 files .* changed .*train1\.tfrecord"):
        train(files["train"], f"{tmp_path}/model", argv)
    assert not (tmp_path / "model" / "checkpoints").exists()
