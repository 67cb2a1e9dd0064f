"""Writes a model as a SavedModel that needs nothing else: raw records in, named classes out.

An exported model's folder:
    saved_model.pb, variables/   for TensorFlow Serving, or tf.saved_model.load
    class_names.json             names by class id (the SavedModel holds them too)
    manifest.json                when and from what it was made, and the flags that shaped it
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
from trainer.evaluation import experts
from trainer.evaluation.metrics import TOP_K
from trainer.models import registry
from trainer.serving import loading


def export(train_dir: str, output_dir: str, vocabulary_file: str = "") -> dict:
    """Exports the newest checkpoint of `train_dir` to the local folder `output_dir`.

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
    """Exports a model, all of it or nothing. Returns the manifest.

    The SavedModel has the signature `serving_default`: `examples` [batch] string, serialized
    records, give `video_id` [batch] and, best class first, `classes`, `names` and `scores`
    [batch, TOP_K]. Its function `predict` takes input_pipeline.model_inputs of a batch and
    returns probabilities, [batch, num_classes] float32. Where a model has experts, there is
    `predict_and_trust` too, as experts.predict.

    Raises:
        UserError: `output_dir` cannot be written, or holds a model already.
    """
    final = Path(output_dir)
    if (final / loading.MANIFEST_FILE).exists():
        raise UserError(f"{output_dir} holds an exported model already; give another folder.")
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
            final.rmdir()  # an empty folder, made beforehand
        partial.rename(final)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"The model cannot be exported to {output_dir}: {reason(error)}."
        ) from error
    return manifest


class _Served(tf.Module):
    """What is saved: the model between records and named classes."""

    def __init__(self, model: keras.Model, flags: dict, names: list[str]):
        super().__init__()
        # Not the model itself: keras would save a call of it that a frame-level model has not got.
        self.model_variables = list(registry.variables(model).values())
        self.record_format = record_format(flags)
        self.names = names
        self.predict = tf.function(
            lambda inputs: registry.predict(model, inputs),
            input_signature=[input_pipeline.model_input_spec(self.record_format)],
        )
        if experts.has_experts(model):
            self.predict_and_trust = tf.function(
                lambda inputs: experts.predict(model, inputs),
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
    """Exports to train_dir/export/step-N, and removes all but the newest --keep_checkpoints."""
    folder = Path(train_dir) / "export"
    names = vocabulary.read_names("", config.num_classes)
    output_dir = folder / f"step-{step:08d}"
    if not output_dir.exists():  # a run that was killed after this export, and repeats the step
        write(model, config.model_flags, step, names, str(output_dir), config.train_dir)
    for old in sorted(folder.glob("step-*"))[: -config.keep_checkpoints]:
        shutil.rmtree(old)
