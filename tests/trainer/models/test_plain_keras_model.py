"""Keras models that know nothing of this project, from training to prediction."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.common import storage
from trainer.evaluation import evaluator
from trainer.models import registry
from trainer.serving import loading, saved_model
from trainer.serving.options import PredictionOptions
from trainer.serving.prediction import predict_to_file
from trainer.training.loop import train


class ResidualMlp(keras.Model):
    """A subclassed residual MLP, its layers named by Keras."""

    def __init__(self, num_classes, activation):
        super().__init__()
        self.expand = keras.layers.Dense(16)
        self.norm = keras.layers.BatchNormalization()
        self.hidden = keras.layers.Dense(16, activation="relu")
        self.dropout = keras.layers.Dropout(0.1)
        self.classes = keras.layers.Dense(num_classes, activation, kernel_regularizer="l2")

    def call(self, features, training=False):
        x = self.expand(features)
        x += self.dropout(self.hidden(self.norm(x, training=training)), training=training)
        return self.classes(x)


def subclassed(flags):
    return ResidualMlp(flags["num_classes"], "sigmoid")


def with_logits(flags):
    return ResidualMlp(flags["num_classes"], None)


def functional(flags):
    inputs = keras.Input([5])
    x = keras.layers.Dense(16)(inputs)
    x = keras.layers.Add()([x, keras.layers.Dense(16, activation="relu")(x)])
    return keras.Model(inputs, keras.layers.Dense(flags["num_classes"], "sigmoid")(x))


def functional_of_frames(flags):
    features = keras.Input([None, 5], dtype="uint8", name="features")
    num_frames = keras.Input([], dtype="int32", name="num_frames")
    x = keras.layers.Rescaling(1 / 255)(features)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(16, activation="relu")(x))
    outputs = keras.layers.Dense(flags["num_classes"], "sigmoid")(x)
    return keras.Model({"features": features, "num_frames": num_frames}, outputs)


ENTRIES = {
    "subclassed": registry.Model(f"{__name__}:subclassed"),
    "logits": registry.Model(f"{__name__}:with_logits", from_logits=True),
    "functional": registry.Model(f"{__name__}:functional"),
    "frames": registry.Model(f"{__name__}:functional_of_frames", frame_level=True),
}


KINDS = [(kind, mixed_precision) for kind in ENTRIES for mixed_precision in (False, True)]


@pytest.mark.parametrize(
    "kind, mixed_precision",
    [pytest.param(*k, marks=[] if k == ("functional", False) else pytest.mark.slow) for k in KINDS],
)
def test_trains_resumes_evaluates_exports_and_predicts(
    kind, mixed_precision, make_config, frame_shards, weights, monkeypatch, tmp_path
):
    monkeypatch.setitem(registry.MODELS, "Plain", ENTRIES[kind])
    flags = {"model": "Plain", "mixed_precision": mixed_precision, "base_learning_rate": 0.02}
    if ENTRIES[kind].frame_level:
        flags |= {"frame_features": True, "train_data_pattern": frame_shards}

    first = make_config(**flags, max_steps=1)
    train(first)
    before = evaluator.evaluate(first.train_dir, first.train_data_pattern).metrics
    train(make_config(**flags, max_steps=15, num_epochs=20))
    config = make_config(**flags, max_steps=30, num_epochs=20)
    assert train(config) == 30
    after = evaluator.evaluate(config.train_dir, config.train_data_pattern).metrics
    assert after["loss"] < before["loss"]

    uninterrupted = make_config(
        **flags, max_steps=30, num_epochs=20, train_dir=str(tmp_path / "uninterrupted")
    )
    train(uninterrupted)
    expected = weights(uninterrupted.train_dir)
    got = weights(config.train_dir)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.tobytes() == expected[name].tobytes(), name

    exported = str(tmp_path / "exported")
    saved_model.export(config.train_dir, exported)
    assert loading.load(exported).predict_with_gates is None
    for model_dir in (config.train_dir, exported):
        metrics = evaluator.evaluate(model_dir, config.train_data_pattern).metrics
        assert metrics["loss"] == pytest.approx(after["loss"], rel=1e-5)
        output = str(tmp_path / "predictions.csv")
        files = storage.glob(config.train_data_pattern)
        model = loading.load(model_dir)
        assert predict_to_file(model, files, output, PredictionOptions()).videos > 10
        assert storage.exists(output)


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_predictions_are_float32_probabilities(mixed_precision, make_config, monkeypatch):
    monkeypatch.setitem(registry.MODELS, "Plain", ENTRIES["logits"])
    model = registry.create(make_config(model="Plain").model_flags, mixed_precision)
    inputs = {"features": tf.random.stateless_normal([3, 5], [0, 0])}
    predictions = registry.predict(model, inputs)
    assert predictions.dtype == tf.float32
    logits = tf.cast(model(inputs["features"]), tf.float32)
    np.testing.assert_allclose(predictions, tf.sigmoid(logits), rtol=1e-6)
