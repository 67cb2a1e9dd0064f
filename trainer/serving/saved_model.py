"""Export a model as a self-contained SavedModel, from records or features to named classes.

Folder of an exported model:
    saved_model.pb, variables/   for TensorFlow Serving or tf.saved_model.load
    class_names.json             names by class id (also contained in the SavedModel)
    manifest.json                date, source, step, the flags that define the model, and the
                                 versions of the libraries

`keras.Model.export` is not used: its signatures take the model's inputs, not serialized records.
"""

import datetime
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer.common.errors import UserError, reason
from trainer.config import record_format
from trainer.data import input_pipeline, vocabulary
from trainer.data.records import MAX_FRAMES, RecordFormat
from trainer.models import kernels, registry
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

    The SavedModel has two signatures:

    - `serving_default`, the default: `examples`, [batch] string, serialized records. Labels in
      them are ignored.
    - `features`: `features`, the concatenated features, [batch, width] float32; of frame-level
      models [batch, frames, width] uint8, and `num_frames`, [batch] int32.

    Both return `classes`, `names` and `scores` (probabilities), [batch, TOP_K], in descending order
    of probability; `serving_default` also returns `video_id`, [batch] string.

    The module's function `predict` takes `input_pipeline.model_inputs` of a batch and returns
    probabilities, [batch, num_classes] float32. For a mixture of experts, `predict_with_gates` does
    the same as `mixtures.predict`.

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
        "libraries": {module.__name__: module.__version__ for module in (tf, keras, np)},
    }
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        module = _Served(model, flags, names)
        signatures = {"serving_default": module.serve_examples, "features": module.serve_features}
        with kernels.portable():
            tf.saved_model.save(module, str(partial), signatures)
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

        self.serve_features = tf.function(
            self._serve_features, input_signature=_dense_input_spec(self.record_format)
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(self, examples):
        batch = input_pipeline.parse(examples, self.record_format, labels=False)
        return {"video_id": batch["id"]} | self._top_classes(input_pipeline.model_inputs(batch))

    def _serve_features(self, features, num_frames=None):
        if not self.record_format.frame_features:
            return self._top_classes({"features": features})
        features = features[:, :MAX_FRAMES]
        num_frames = tf.minimum(num_frames, tf.shape(features)[1])
        is_frame = tf.sequence_mask(num_frames, tf.shape(features)[1], tf.uint8)
        features *= is_frame[:, :, None]  # as zeros follow the frames of a record
        padding = MAX_FRAMES - tf.shape(features)[1]
        features = tf.pad(features, [[0, 0], [0, padding], [0, 0]])
        features = tf.ensure_shape(features, [None, MAX_FRAMES, None])
        return self._top_classes({"features": features, "num_frames": num_frames})

    def _top_classes(self, inputs):
        """Return the TOP_K classes of each video with their names and probabilities."""
        scores, classes = tf.math.top_k(self.predict(inputs), min(TOP_K, len(self.names)))
        names = tf.gather(tf.constant(self.names), classes)
        return {"classes": classes, "names": names, "scores": scores}


def _dense_input_spec(record_format: RecordFormat) -> list[tf.TensorSpec]:
    """Return the inputs of the signature `features`."""
    width = record_format.width
    if not record_format.frame_features:
        return [tf.TensorSpec([None, width], tf.float32, name="features")]
    return [
        tf.TensorSpec([None, None, width], tf.uint8, name="features"),
        tf.TensorSpec([None], tf.int32, name="num_frames"),
    ]


def export_periodically(config, train_dir: str, model: keras.Model, step: int):
    """Export to train_dir/export/step-N, and remove all but the newest --keep_checkpoints."""
    folder = Path(train_dir) / "export"
    names = vocabulary.read_names("", config.num_classes)
    output_dir = folder / f"step-{step:08d}"
    if not output_dir.exists():  # else a run repeats a step that it exported before it was killed
        write(model, config.model_flags, step, names, str(output_dir), config.train_dir)
    for old in sorted(folder.glob("step-*"))[: -config.keep_checkpoints]:
        shutil.rmtree(old)
