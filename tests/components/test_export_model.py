"""The export step: the exported model predicts what the checkpoint predicts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.export_model import difference, export
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data.examples import encode_example
from trainer.data.input_pipeline import Position
from trainer.data.tfrecord import write_records
from trainer.models import registry
from trainer.run_dir import checkpoints
from trainer.serving import loading, saved_model


def save_model(train_dir, weight=None, **flags) -> str:
    """Save an untrained model, with all weights equal to `weight` if given; return train_dir."""
    small = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3}
    config = TrainConfig(**small | flags)
    model = registry.create(config.model_flags)
    if weight is not None:
        for variable in model.trainable_variables:
            variable.assign(tf.fill(variable.shape, weight))
    checkpoints.keep_model_flags(str(train_dir), config.model_flags)
    variables = registry.variables(model)
    checkpoints.save(str(train_dir), variables, checkpoints.State(7, Position(), "", {}), 1)
    return str(train_dir)


@pytest.fixture(scope="module")
def eval_data(tmp_path_factory) -> str:
    """Glob of two shards with 5 videos in all, one of them with a label out of range."""
    folder = tmp_path_factory.mktemp("eval")
    vectors = iter([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0], [-2.0, 5.0], [0.5, -0.5]])
    for name, labels in (("a", [[0], [99], []]), ("b", [[1, 2], [2]])):
        videos = [{"id": b"v", "labels": ids, "rgb": next(vectors)} for ids in labels]
        write_records(f"{folder}/{name}.tfrecord", map(encode_example, videos))
    return f"{folder}/*.tfrecord"


@pytest.mark.parametrize(
    "model", ["LogisticModel", pytest.param("MoeModel", marks=pytest.mark.slow)]
)
def test_exported_model_predicts_what_the_checkpoint_predicts(tmp_path, eval_data, model):
    train_dir = save_model(tmp_path / "model", model=model)
    (tmp_path / "names.csv").write_text("Index,Name\n1,Car\n")
    manifest = export(train_dir, f"{tmp_path}/exported", eval_data, f"{tmp_path}/names.csv")
    assert (manifest["step"], manifest["model_flags"]["model"]) == (7, model)
    assert json.loads(Path(tmp_path, "exported", "manifest.json").read_text()) == manifest
    trained, exported = loading.load(train_dir), loading.load(f"{tmp_path}/exported")
    assert exported.class_names == ["class 0", "Car", "class 2"]
    batch = {"features": tf.constant([[3.0, -4.0], [0.0, 0.0]])}
    np.testing.assert_allclose(exported.predict(batch), trained.predict(batch), rtol=1e-5)


@pytest.mark.slow
def test_model_that_predicts_nan_is_an_error(tmp_path, eval_data):
    train_dir = save_model(tmp_path / "model", weight=np.nan)
    with pytest.raises(RuntimeError, match=r"the scores must be .*; they differ by nan"):
        export(train_dir, f"{tmp_path}/exported", eval_data)


EXPECTED = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.25]])
NAMES = np.array([b"Game", b"Car", b"Concert"])
SERVED = {
    "classes": np.array([[1, 2, 0], [1, 0, 2]]),  # of equal scores, any may come first
    "scores": np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.25]]),
    "names": np.array([[b"Car", b"Concert", b"Game"], [b"Car", b"Game", b"Concert"]]),
}


def test_answers_within_the_tolerance_do_not_differ():
    assert difference(SERVED, EXPECTED, NAMES) is None
    assert difference(SERVED | {"scores": SERVED["scores"] + 9e-6}, EXPECTED, NAMES) is None


@pytest.mark.parametrize(
    "garbage, message",
    [
        ({"classes": SERVED["classes"][:, ::-1]}, r"probabilities, within 1e-05; .* by 0\.6"),
        ({"scores": SERVED["scores"] + 2e-5}, r"they differ by 2e-05"),
        ({"scores": SERVED["scores"] * np.nan}, r"they differ by nan"),
        ({"names": SERVED["names"][:, ::-1]}, "the class names are not those of the vocabulary"),
        ({"classes": SERVED["classes"] + 1}, "expected class ids from 0 to 2; got 3"),
        ({"scores": SERVED["scores"][:, :1]}, r"shape \(2, 3\); got \(2, 1\) and \(2, 3\)"),
    ],
    ids=["classes", "scores", "nan", "names", "ids", "shape"],
)
def test_garbage_is_told(garbage, message):
    assert re.search(message, difference(SERVED | garbage, EXPECTED, NAMES))


@pytest.mark.slow
@pytest.mark.parametrize("signature", ["serving_default", "features"])
def test_garbage_in_a_signature_is_an_error(tmp_path, eval_data, monkeypatch, signature):
    class Garbage(saved_model._Served):
        def _top_classes(self, inputs):
            outputs = super()._top_classes(inputs)
            from_records = tf.compat.v1.get_default_graph().name.endswith("serve_examples")
            if from_records == (signature == "serving_default"):
                outputs["scores"] = tf.random.uniform(tf.shape(outputs["scores"]))
            return outputs

    train_dir = save_model(tmp_path / "model")
    monkeypatch.setattr(saved_model, "_Served", Garbage)
    with pytest.raises(RuntimeError, match=f"Signature '{signature}' .*: the scores must be"):
        export(train_dir, f"{tmp_path}/exported", eval_data)


@pytest.mark.slow
def test_other_video_ids_are_an_error(tmp_path, eval_data, monkeypatch):
    class Anonymous(saved_model._Served):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serve_examples(self, examples):
            return super().serve_examples(examples) | {"video_id": examples}

    train_dir = save_model(tmp_path / "model")
    monkeypatch.setattr(saved_model, "_Served", Anonymous)
    with pytest.raises(RuntimeError, match="the video ids are not those of the records"):
        export(train_dir, f"{tmp_path}/exported", eval_data)


@pytest.mark.slow
def test_model_that_needs_our_process_is_an_error(tmp_path, eval_data, monkeypatch):
    class Local(saved_model._Served):
        def _top_classes(self, inputs):
            scores = tf.numpy_function(lambda x: x, [inputs["features"]], tf.float32)
            return super()._top_classes({"features": tf.ensure_shape(scores, [None, 2])})

    train_dir = save_model(tmp_path / "model")
    monkeypatch.setattr(saved_model, "_Served", Local)
    with pytest.raises(RuntimeError, match="The exported model cannot be served: "):
        export(train_dir, f"{tmp_path}/exported", eval_data)


def test_missing_checkpoint_is_an_error(tmp_path, eval_data):
    with pytest.raises(UserError, match="No model in"):
        export(str(tmp_path), f"{tmp_path}/exported", eval_data)


def test_no_records_to_verify_with_is_an_error(tmp_path):
    write_records(f"{tmp_path}/empty.tfrecord", [])
    with pytest.raises(UserError, match="Expected records to verify the exported model with"):
        export(save_model(tmp_path / "model"), f"{tmp_path}/out", f"{tmp_path}/empty.tfrecord")
    assert not (tmp_path / "out").exists()
