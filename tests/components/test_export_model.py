"""The export step: what is exported is checked against the checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.export_model import export
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data.input_pipeline import Position
from trainer.models import registry
from trainer.run_dir import checkpoints
from trainer.serving import loading


def save_model(train_dir, weight=None, **flags) -> str:
    """A train_dir with a new model, all of whose weights are `weight` if that is given."""
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


@pytest.mark.parametrize("model", ["LogisticModel", "MoeModel"])
def test_the_exported_model_says_what_the_checkpoint_says(tmp_path, model):
    train_dir = save_model(tmp_path / "model", model=model)
    (tmp_path / "names.csv").write_text("Index,Name\n1,Car\n")
    manifest = export(train_dir, f"{tmp_path}/exported", f"{tmp_path}/names.csv")
    assert (manifest["step"], manifest["model_flags"]["model"]) == (7, model)
    assert json.loads(Path(tmp_path, "exported", "manifest.json").read_text()) == manifest
    trained, exported = loading.load(train_dir), loading.load(f"{tmp_path}/exported")
    assert exported.class_names == ["class 0", "Car", "class 2"]
    batch = {"features": tf.constant([[3.0, -4.0], [0.0, 0.0]])}
    np.testing.assert_allclose(exported.predict(batch), trained.predict(batch), rtol=1e-5)


def test_a_model_that_says_no_number_is_not_exported(tmp_path):
    train_dir = save_model(tmp_path / "model", weight=np.nan)
    with pytest.raises(RuntimeError, match="must give the checkpoint's probabilities"):
        export(train_dir, f"{tmp_path}/exported")


def test_without_a_model_there_is_nothing_to_export(tmp_path):
    with pytest.raises(UserError, match="No model in"):
        export(str(tmp_path), f"{tmp_path}/exported")
