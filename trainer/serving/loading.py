"""Load a trained model from a train_dir or from the folder of an exported model."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError, reason
from trainer.config import record_format
from trainer.data import input_pipeline, vocabulary
from trainer.data.records import RecordFormat
from trainer.models import registry
from trainer.run_dir import checkpoints, mirror
from trainer.serving import mixtures

# Files beside the SavedModel in the folder of an exported model.
CLASS_NAMES_FILE = "class_names.json"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model for inference.

    Attributes:
        predict: function from a batch of `input_pipeline` to probabilities, [batch, num_classes]
            float32.
        flags: the flags that define the model.
        step: number of training steps.
        class_names: names by class id.
        predict_with_gates: like `predict`, but also returns the gate probabilities, as
            `mixtures.predict` does; None if the model is no mixture of experts.
    """

    predict: Callable
    flags: dict
    step: int
    class_names: list[str]
    predict_with_gates: Callable | None = None

    @property
    def record_format(self) -> RecordFormat:
        """Format of the records that the model reads."""
        return record_format(self.flags)


def load(model_dir: str, vocabulary_file: str = "") -> TrainedModel:
    """Load an exported model, or the newest checkpoint of a train_dir.

    Args:
        model_dir: the folder, local or gs://.
        vocabulary_file: class names for a train_dir; an exported model contains its own.

    Raises:
        UserError: there is no model in `model_dir`, or it cannot be read.
    """
    if storage.exists(storage.join(model_dir, MANIFEST_FILE)):
        return _load_exported(model_dir)
    model, flags, step = restore(model_dir)
    # One graph for batches of all sizes: one for a batch of fixed size would round differently, and
    # predictions would depend on which batch comes first.
    spec = [input_pipeline.model_input_spec(record_format(flags))]
    predict = tf.function(lambda inputs: registry.predict(model, inputs), input_signature=spec)
    gates = tf.function(lambda inputs: mixtures.predict(model, inputs), input_signature=spec)
    predict_with_gates = _of_batch(gates) if mixtures.is_mixture(model) else None
    names = vocabulary.read_names(vocabulary_file, flags["num_classes"])
    return TrainedModel(_of_batch(predict), flags, step, names, predict_with_gates)


def restore(train_dir: str) -> tuple[keras.Model, dict, int]:
    """Restore the model of the newest checkpoint in a train_dir.

    Returns:
        The model, the flags that define it, and its number of training steps.

    Raises:
        UserError: there is no checkpoint, or none that can be read.
    """
    with mirror.local_copy(train_dir) as folder:
        flags = checkpoints.read_model_flags(folder)
        if flags is None:
            raise UserError(
                f"No model in {train_dir!r}: expected {checkpoints.MODEL_FLAGS_FILE} of a training "
                f"run, or {MANIFEST_FILE} of an exported model."
            )
        model = registry.create(flags)
        state = checkpoints.restore(folder, registry.variables(model), subset=True)
    if state is None:
        raise UserError(f"No checkpoint in {train_dir!r}: the model was not trained yet.")
    return model, flags, state.step


def _load_exported(model_dir: str) -> TrainedModel:
    manifest = storage.read_json(storage.join(model_dir, MANIFEST_FILE), "model_flags", "step")
    names = storage.read_json(storage.join(model_dir, CLASS_NAMES_FILE), "names")["names"]
    with tempfile.TemporaryDirectory() as local:
        if storage.is_remote(model_dir):
            storage.copy_tree(model_dir, local)
        try:
            module = tf.saved_model.load(local if storage.is_remote(model_dir) else model_dir)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise UserError(
                f"Cannot read the exported model {model_dir}: {reason(error)}."
            ) from error
    # Call through the module: its function alone does not keep its variables alive.
    predict = _of_batch(lambda inputs: module.predict(inputs))
    gates = _of_batch(lambda inputs: module.predict_with_gates(inputs))
    predict_with_gates = gates if hasattr(module, "predict_with_gates") else None
    return TrainedModel(
        predict, manifest["model_flags"], manifest["step"], names, predict_with_gates
    )


def _of_batch(predict: Callable) -> Callable:
    return lambda batch: predict(input_pipeline.model_inputs(batch))
