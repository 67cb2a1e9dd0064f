"""Export a model as a self-contained SavedModel, from serialized records to named classes.

Folder of an exported model:
    saved_model.pb, variables/   for TensorFlow Serving or tf.saved_model.load
    class_names.json             names by class id (also contained in the SavedModel)
    manifest.json                date, source, step, and the flags that define the model

`keras.Model.export` is not used: its signatures take the model's inputs, not serialized records.
"""

import datetime
import json
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from trainer.common.errors import UserError, reason
from trainer.config import record_format
from trainer.data import input_pipeline, vocabulary
from trainer.models import registry
from trainer.serving import loading, mixtures

TOP_K = 20  # classes that the signature returns per video


def export(train_dir: str, output_dir: str, vocabulary_file: str = "") -> dict:
    """Export the newest checkpoint of `train_dir` to the local folder `output_dir`.

    Returns:
        The manifest.

    Raises:
        UserError: there is no model in `train_dir`, or `output_dir` cannot be written.
    """
    model, flags, step = loading.restore(train_dir)
    names = vocabulary.read_names(vocabulary_file, flags["num_classes"])
    return write(model, flags, step, names, output_dir, source=train_dir)


def write(
    model: keras.Model, flags: dict, step: int, names: list[str], output_dir: str, source: str
) -> dict:
    """Export a model atomically.

    The SavedModel has the signature `serving_default`, from `examples`, [batch] string, serialized
    records, to `video_id`, [batch], and `classes`, `names` and `scores` (probabilities),
    [batch, TOP_K], in descending order of probability. Its function `predict` takes
    `input_pipeline.model_inputs` of a batch and returns probabilities, [batch, num_classes]
    float32. For a mixture of experts, `predict_with_gates` does the same as `mixtures.predict`.

    Args:
        model: the model.
        flags: the flags that define the model.
        step: number of training steps.
        names: class names by class id.
        output_dir: the local folder to write.
        source: the train_dir, for the manifest.

    Returns:
        The manifest.

    Raises:
        UserError: `output_dir` cannot be written, or contains an exported model already.
    """
    final = Path(output_dir)
    if (final / loading.MANIFEST_FILE).exists():
        raise UserError(f"{output_dir} contains an exported model already. Give another folder.")
    partial = final.with_name(f"partial-{final.name}")
    manifest = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": source,
        "step": step,
        "model_flags": flags,
    }
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        module = _Served(model, flags, names)
        tf.saved_model.save(module, str(partial), {"serving_default": module.serve})
        (partial / loading.CLASS_NAMES_FILE).write_text(json.dumps({"names": names}))
        (partial / loading.MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")
        if final.exists():
            final.rmdir()  # an empty folder that was created before
        partial.rename(final)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"Cannot export the model to {output_dir}: {reason(error)}.") from error
    return manifest


class _Served(tf.Module):
    """The exported module: parsing, model and class names."""

    def __init__(self, model: keras.Model, flags: dict, names: list[str]):
        super().__init__()
        # Not the model: Keras would save a call with one argument, which frame-level models lack.
        self.model_variables = list(registry.variables(model).values())
        self.record_format = record_format(flags)
        self.names = names
        self.predict = tf.function(
            lambda inputs: registry.predict(model, inputs),
            input_signature=[input_pipeline.model_input_spec(self.record_format)],
        )
        if mixtures.is_mixture(model):
            self.predict_with_gates = tf.function(
                lambda inputs: mixtures.predict(model, inputs),
                input_signature=[input_pipeline.model_input_spec(self.record_format)],
            )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples):
        batch = input_pipeline.parse(examples, self.record_format)
        scores, classes = tf.math.top_k(
            self.predict(input_pipeline.model_inputs(batch)), min(TOP_K, len(self.names))
        )
        return {
            "video_id": batch["id"],
            "classes": classes,
            "names": tf.gather(tf.constant(self.names), classes),
            "scores": scores,
        }


def export_periodically(config, train_dir: str, model: keras.Model, step: int):
    """Export to train_dir/export/step-N, and remove all but the newest --keep_checkpoints."""
    folder = Path(train_dir) / "export"
    names = vocabulary.read_names("", config.num_classes)
    output_dir = folder / f"step-{step:08d}"
    if not output_dir.exists():  # else a run repeats a step that it exported before it was killed
        write(model, config.model_flags, step, names, str(output_dir), config.train_dir)
    for old in sorted(folder.glob("step-*"))[: -config.keep_checkpoints]:
        shutil.rmtree(old)
