"""The registry of models, and the precision that they work in."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.paths import ROOT
from trainer.config import TrainConfig
from trainer.models import registry


def model_flags(**changes) -> dict:
    small = {"feature_names": "rgb", "feature_sizes": "50", "num_classes": 7}
    return TrainConfig(**small | changes).model_flags


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_mixed_precision_is_for_training_alone(name):
    flags = model_flags(model=name)
    mixed, exact = registry.create(flags, mixed_precision=True), registry.create(flags)
    exact.set_weights(mixed.get_weights())
    assert {variable.dtype for variable in mixed.variables} == {"float32"}
    inputs = {"features": tf.random.stateless_normal([20, 50], [0, 0])}
    expected = registry.predict(exact, inputs).numpy()
    assert np.array_equal(registry.predict(mixed, inputs), expected)
    outputs = registry.call(mixed, inputs, training=True)
    in_training = registry.probabilities(mixed, outputs)
    assert in_training.dtype == tf.float32
    assert 0 < np.abs(in_training - expected).max() < 0.01


def test_one_models_precision_is_not_the_nexts():
    before = keras.config.dtype_policy()
    registry.create(model_flags(), mixed_precision=True)
    assert keras.config.dtype_policy() == before
    assert registry.create(model_flags()).dtype_policy.name == "float32"


SMALL = {
    "dbof_cluster_size": 6,
    "dbof_hidden_size": 5,
    "lstm_cells": 3,
    "gru_cells": 3,
    "vlad_cluster_size": 2,
    "pooling_hidden_size": 5,
}


@pytest.mark.parametrize("name", registry.MODELS)
def test_variables_have_the_same_names_in_every_model(name):
    frame_level = registry.MODELS[name].frame_level
    flags = model_flags(model=name, frame_features=frame_level, **SMALL)
    once, again = (list(registry.variables(registry.create(flags))) for _ in range(2))
    assert once == again
    assert all(path.startswith("model/") for path in once)


@pytest.mark.slow
def test_variables_have_the_same_names_in_every_process():
    flags = [
        model_flags(model=name, frame_features=model.frame_level, **SMALL)
        for name, model in registry.MODELS.items()
    ]
    script = f"""
from trainer.models import registry
print([list(registry.variables(registry.create(flags))) for flags in {flags}])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    here = [list(registry.variables(registry.create(each))) for each in flags]
    assert done.stdout == f"{here}\n"


class Twins(keras.Model):
    """Two layers of the same name."""

    def __init__(self):
        super().__init__()
        self.twins = [keras.layers.Dense(2, name="same") for _ in range(2)]

    def call(self, features):
        return self.twins[1](self.twins[0](features))


def test_variables_with_the_same_path_are_an_error():
    model = Twins()
    model(tf.zeros([1, 2]))
    with pytest.raises(ValueError, match=r"different paths; got .*same/bias.* more than once"):
        registry.variables(model)


def test_the_registry_imports_neither_tensorflow_nor_keras():
    script = """
import sys
import trainer.models.registry, trainer.training.registry, trainer.config
print({"tensorflow", "keras"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "set()\n"
