"""The export step: a SavedModel, checked against the checkpoint that it was made of."""

import tensorflow as tf

from trainer.data.records import MAX_FRAMES, RecordFormat
from trainer.serving import loading, saved_model

TOLERANCE = 1e-5  # the two graphs may round differently


def export(train_dir: str, output_dir: str, vocabulary: str = "") -> dict:
    """Exports the newest checkpoint of `train_dir` to the local folder `output_dir`.

    Returns:
        The manifest, as trainer.serving.saved_model.write makes it.

    Raises:
        UserError: there is no model in `train_dir`, or `output_dir` cannot be written.
        RuntimeError: the exported model does not say what the checkpoint says.
    """
    manifest = saved_model.export(train_dir, output_dir, vocabulary)
    trained, exported = loading.load(train_dir), loading.load(output_dir)
    batch = _random_batch(trained.record_format)
    difference = tf.reduce_max(tf.abs(trained.predict(batch) - exported.predict(batch)))
    if not difference < TOLERANCE:
        raise RuntimeError(
            f"The exported model must give the checkpoint's probabilities, within {TOLERANCE}; "
            f"they differ by {difference:.3g}."
        )
    return manifest


def _random_batch(record_format: RecordFormat, size: int = 8) -> dict[str, tf.Tensor]:
    """A batch of `reading` with arbitrary features."""
    if record_format.frame_features:
        shape = [size, MAX_FRAMES, record_format.width]
        features = tf.cast(tf.random.stateless_uniform(shape, [0, 0], 0, 256, tf.int32), tf.uint8)
        return {"features": features, "num_frames": tf.fill([size], MAX_FRAMES)}
    return {"features": tf.random.stateless_normal([size, record_format.width], [0, 0])}
