"""Exporting: raw records in, named classes out, and nothing by halves."""

import json
import shutil
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.data.examples import encode_example
from trainer.data.input_pipeline import Position
from trainer.data.tfrecord import read_records
from trainer.models import registry
from trainer.run_dir import checkpoints
from trainer.serving import loading, saved_model


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> str:
    """The folder of an exported model. Not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "names.csv").write_text("Index,Name\n0,Game\n1,Car\n2,Concert\n4,Dance\n")
    saved_model.export(trained, f"{folder}/model", f"{folder}/names.csv")
    return f"{folder}/model"


def served(folder, signature="serving_default"):
    return tf.saved_model.load(folder).signatures[signature]


def test_the_served_model_says_what_the_checkpoint_says(trained, exported, video_shards):
    files, model = sorted(glob(video_shards)), loading.load(trained)
    (batch,) = input_pipeline.batches(files, model.record_format, 100)
    records = [record for file in files for record in read_records(file)]
    result = served(exported)(examples=tf.constant(records))
    names = np.array([b"Game", b"Car", b"Concert", b"class 3", b"Dance"])
    scores = model.predict(batch).numpy()
    order = np.argsort(-scores, axis=1)
    assert result["video_id"].numpy().tolist() == batch["id"].numpy().tolist()
    assert np.array_equal(result["classes"], order)
    assert np.array_equal(result["names"], names[order])
    np.testing.assert_allclose(result["scores"], -np.sort(-scores, axis=1), rtol=1e-5)


def test_a_served_video_needs_neither_labels_nor_company(exported):
    record = encode_example({"id": b"new", "rgb": [1.0, 2.0, 3.0], "audio": [0.0, 1.0]})
    result = served(exported)(examples=tf.constant([record]))
    assert result["video_id"].numpy().tolist() == [b"new"]
    assert result["scores"].shape == (1, 5)


def test_labels_are_not_parsed(exported):
    features = {"rgb": [1.0, 2.0, 3.0], "audio": [0.0, 1.0]}
    labels = ([-1], [5000], [0] * 1000, b"not a number")
    videos = [{"id": b"v", "labels": given} | features for given in labels]
    result = served(exported)(examples=tf.constant([encode_example(video) for video in videos]))
    assert len(np.unique(result["scores"], axis=0)) == 1


def test_dense_features_are_served(trained, exported):
    features = np.array([[1.0, 2.0, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0, 2.0]], np.float32)
    result = served(exported, "features")(features=tf.constant(features))
    scores = loading.load(trained).predict({"features": tf.constant(features)}).numpy()
    assert sorted(result) == ["classes", "names", "scores"]
    assert np.array_equal(result["classes"], np.argsort(-scores, axis=1))
    np.testing.assert_allclose(result["scores"], -np.sort(-scores, axis=1), rtol=1e-5)


def test_no_more_than_20_classes_are_served(save_logistic_model, tmp_path):
    saved_model.export(save_logistic_model(np.linspace(0.1, 0.9, 30)), f"{tmp_path}/exported")
    record = encode_example({"id": b"a", "rgb": [1.0] * 3, "audio": [1.0] * 2})
    result = served(f"{tmp_path}/exported")(examples=tf.constant([record]))
    assert result["classes"].numpy().tolist() == [list(range(29, 9, -1))]
    assert result["names"].numpy()[0, 0] == b"class 29"


def test_a_frame_level_model_serves_frames(tmp_path, make_config, frame_shards):
    flags = make_config(model="FrameLevelLogisticModel", frame_features=True).model_flags
    model = registry.create(flags)
    checkpoints.keep_model_flags(f"{tmp_path}/model", flags)
    variables = registry.variables(model)
    state = checkpoints.State(1, Position(), "", {})
    checkpoints.save(f"{tmp_path}/model", variables, state, 1)
    saved_model.export(f"{tmp_path}/model", f"{tmp_path}/exported")

    (file, *_) = sorted(glob(frame_shards))
    records = tf.constant(list(read_records(file)))
    result = served(f"{tmp_path}/exported")(examples=records)
    batch = input_pipeline.parse(records, loading.load(f"{tmp_path}/model").record_format)
    scores = registry.predict(model, input_pipeline.model_inputs(batch)).numpy()
    np.testing.assert_allclose(result["scores"], -np.sort(-scores, axis=1), rtol=1e-5)

    # As dense features: as many frames as the longest video has; what is after a video's last frame
    # does not matter, nor do frames after the 300th.
    num_frames = batch["num_frames"].numpy()
    for num_slots in (310, 5):
        features = np.full([len(num_frames), num_slots, 5], 77, np.uint8)
        for frames, row in zip(num_frames, range(len(num_frames)), strict=True):
            kept = min(frames, num_slots)
            features[row, :kept] = np.concatenate(batch["features"], axis=2)[row, :kept]
        dense = served(f"{tmp_path}/exported", "features")(
            features=tf.constant(features), num_frames=tf.constant(num_frames)
        )
        rows = num_frames <= num_slots
        np.testing.assert_allclose(
            dense["scores"].numpy()[rows], result["scores"].numpy()[rows], rtol=1e-5
        )


def test_the_folder_tells_what_it_holds(trained, exported):
    manifest = json.loads(Path(exported, "manifest.json").read_text())
    assert manifest["source"] == trained
    assert manifest["step"] == 10
    assert manifest["model_flags"] == checkpoints.read_model_flags(trained)
    assert manifest["created"].endswith("+00:00")
    names = json.loads(Path(exported, "class_names.json").read_text())
    assert names["names"] == ["Game", "Car", "Concert", "class 3", "Dance"]
    assert loading.load(exported).class_names == names["names"]


def test_an_exported_model_needs_its_folder_alone(exported, tmp_path, video_shards):
    moved = shutil.copytree(exported, tmp_path / "elsewhere" / "model")
    model, other = loading.load(str(moved)), loading.load(exported)
    (batch,) = input_pipeline.batches(sorted(glob(video_shards)), model.record_format, 100)
    assert np.array_equal(model.predict(batch), other.predict(batch))


def test_a_model_is_never_exported_over_another(trained, exported):
    before = Path(exported, "manifest.json").read_text()
    with pytest.raises(UserError, match=r"contains an exported model already\. Give another"):
        saved_model.export(trained, exported)
    assert Path(exported, "manifest.json").read_text() == before


def test_a_folder_made_beforehand_may_be_empty_and_not_more(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    saved_model.export(trained, f"{tmp_path}/empty")
    assert (tmp_path / "empty" / "saved_model.pb").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"Cannot export the model to .*full"):
        saved_model.export(trained, f"{tmp_path}/full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_what_was_left_half_written_is_replaced(trained, tmp_path):
    (tmp_path / "partial-model").mkdir()
    (tmp_path / "partial-model" / "saved_model.pb").write_text("half of it")
    saved_model.export(trained, f"{tmp_path}/model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert loading.load(f"{tmp_path}/model").step == 10


def test_a_folder_that_cannot_be_written_is_named(trained, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"Cannot export the model to .*file"):
        saved_model.export(trained, f"{tmp_path}/file/model")


def test_nothing_is_exported_without_a_model_or_its_vocabulary(trained, tmp_path):
    with pytest.raises(UserError, match="No model in"):
        saved_model.export(str(tmp_path), f"{tmp_path}/exported")
    with pytest.raises(UserError, match=r"missing\.csv"):
        saved_model.export(trained, f"{tmp_path}/exported", f"{tmp_path}/missing.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "saved_model.pb").unlink(),
        lambda folder: (folder / "saved_model.pb").write_bytes(b"\xff" * 100),
        lambda folder: (folder / "variables/variables.index").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "class_names.json").unlink(),
    ],
    ids=["no graph", "broken graph", "no index", "cut manifest", "empty manifest", "no names"],
)
def test_a_broken_exported_model_is_named(exported, tmp_path, damage):
    folder = shutil.copytree(exported, tmp_path / "model")
    damage(folder)
    with pytest.raises(UserError, match=str(folder)):
        loading.load(str(folder))


def functions_saved_in(folder: Path):
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return [f for graph in saved.meta_graphs for f in graph.graph_def.library.function]


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_what_is_served_needs_no_xla(tmp_path, make_config, mixed_precision):
    flags = make_config(model="MoeModel").model_flags
    model = registry.create(flags, mixed_precision)
    saved_model.write(model, flags, 1, ["a", "b", "c", "d", "e"], f"{tmp_path}/exported", "here")
    for function in functions_saved_in(tmp_path / "exported"):
        assert not function.attr["_XlaMustCompile"].b, function.signature.name


@pytest.mark.parametrize("name", ["LstmModel", "GruModel"])
def test_what_is_served_needs_no_gpu(tmp_path, make_config, monkeypatch, name):
    flags = make_config(model=name, frame_features=True, lstm_cells=3, gru_cells=3).model_flags
    model = registry.create(flags)
    # Where there is a GPU, keras takes cuDNN's operations, which run nowhere else.
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda _: ["GPU:0"])
    saved_model.write(model, flags, 1, ["a", "b", "c", "d", "e"], f"{tmp_path}/exported", "here")
    operations = {
        node.op
        for function in functions_saved_in(tmp_path / "exported")
        for node in function.node_def
    }
    assert "MatMul" in operations
    assert "CudnnRNNV3" not in operations
