"""The export step: writes a SavedModel, and compares its predictions with the checkpoint's."""

import tensorflow as tf

from trainer.data.records import MAX_FRAMES, RecordFormat
from trainer.serving import loading, saved_model

TOLERANCE = 1e-5  # of probabilities; the two graphs may round differently


def export(train_dir: str, output_dir: str, vocabulary: str = "") -> dict:
    """Export the newest checkpoint of `train_dir` to the local folder `output_dir`.

    Args:
        train_dir: Directory of the checkpoints.
        output_dir: Folder to create.
        vocabulary: CSV file with class names. Empty: classes are named by their ids.

    Returns:
        The manifest, as returned by trainer.serving.saved_model.write.

    Raises:
        UserError: There is no model in `train_dir`, or `output_dir` cannot be written.
        RuntimeError: The predictions of the exported model differ from those of the checkpoint.
    """
    manifest = saved_model.export(train_dir, output_dir, vocabulary)
    trained, exported = loading.load(train_dir), loading.load(output_dir)
    batch = _random_batch(trained.record_format)
    difference = tf.reduce_max(tf.abs(trained.predict(batch) - exported.predict(batch)))
    if not difference < TOLERANCE:
        raise RuntimeError(
            "The exported model must predict the same probabilities as the checkpoint, within "
            f"{TOLERANCE}; they differ by {difference:.3g}."
        )
    return manifest


def _random_batch(record_format: RecordFormat, size: int = 8) -> dict[str, tf.Tensor]:
    """Return a batch of trainer.data.input_pipeline with random features and no labels."""
    if record_format.frame_features:
        shape = [size, MAX_FRAMES, record_format.width]
        features = tf.cast(tf.random.stateless_uniform(shape, [0, 0], 0, 256, tf.int32), tf.uint8)
        return {"features": features, "num_frames": tf.fill([size], MAX_FRAMES)}
    return {"features": tf.random.stateless_normal([size, record_format.width], [0, 0])}
