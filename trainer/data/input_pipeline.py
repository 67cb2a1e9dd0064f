"""Read videos from TFRecord shards with tf.data, in an order determined by a seed.

A batch is a dict:

    "id":         [batch] string
    "labels":     [batch, LABEL_SLOTS or a multiple] int32, distinct class ids, then -1
    "features":   video level [batch, width] float32;
                  frame level a tuple, of each feature [batch, MAX_FRAMES, size] uint8
    "num_frames": [batch] int32, frame level only
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import tensorflow as tf

from trainer.common.errors import UserError
from trainer.data import examples
from trainer.data.records import ID_KEYS, LABELS_KEY, MAX_FRAMES, RecordFormat

# Sizes of the shuffle buffer. Shards are read in random order and hold videos in random order, so
# the buffer only needs to mix neighbours. A frame-level video takes about 250 KB.
SHUFFLED_VIDEOS = 16384
SHUFFLED_FRAME_LEVEL_VIDEOS = 2048
# Labels are padded to a multiple of this, so that batches have few shapes: XLA compiles each.
LABEL_SLOTS = 32
READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Position:
    """Position of a run in the data: the first `videos` of `epoch` were read, in its order."""

    epoch: int = 0
    videos: int = 0


@dataclass(frozen=True)
class HeldOut:
    """A part of the videos, chosen by a hash of their records.

    Attributes:
        fraction: fraction of the videos.
        seed: chooses another part.
        invert: whether to choose all others instead.
    """

    fraction: float
    seed: int = 0
    invert: bool = False

    def complement(self) -> "HeldOut":
        return replace(self, invert=not self.invert)

    def contains(self, record: tf.Tensor) -> tf.Tensor:
        """Whether a serialized record, a string scalar, belongs to the part."""
        bucket = tf.strings.to_hash_bucket_strong(record, 10000, [self.seed, 0])
        return (bucket < round(self.fraction * 10000)) != self.invert


def training_batches(
    files: list[str],
    record_format: RecordFormat,
    batch_size: int,
    num_epochs: int,
    num_readers: int,
    seed: int,
    start: Position = Position(),
    on_bad_record: Callable[[str], None] | None = None,
    held_out: HeldOut | None = None,
) -> tf.data.Dataset:
    """Return the batches of a training run, each video once per epoch.

    The order of the videos in an epoch depends only on `files`, `num_readers`, `seed`, the number
    of the epoch and TensorFlow's global seed. The last batch of an epoch may be smaller.

    Args:
        files: the shards.
        record_format: the expected format of their records.
        batch_size: videos per batch.
        num_epochs: number of epochs, counted from epoch 0.
        num_readers: number of files to read in parallel.
        seed: determines the order of the files and of the videos.
        start: position of the first batch.
        on_bad_record: function to call with the reason for each bad record, which is then skipped.
            This checks every record in Python and is slower. If None, a bad record is an error.
        held_out: videos to leave out.

    Returns:
        A dataset of (batch, epoch) pairs.
    """
    buffer = SHUFFLED_FRAME_LEVEL_VIDEOS if record_format.frame_features else SHUFFLED_VIDEOS

    read = _reader(record_format, on_bad_record)

    def epoch_batches(epoch):
        seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.constant(files), seeds)
        records = _records(tf.data.Dataset.from_tensor_slices(order), num_readers, read)
        if held_out:
            records = records.filter(held_out.complement().contains)
        shuffle_seed = tf.random.stateless_uniform([], seeds, 1, 2**31 - 1, tf.int64)
        records = records.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)
        done = tf.where(epoch == start.epoch, tf.constant(start.videos, tf.int64), 0)
        return records.skip(done).batch(batch_size).map(lambda batch: (batch, epoch))

    epochs = tf.data.Dataset.range(start.epoch, num_epochs)
    return (
        epochs.flat_map(epoch_batches)
        .map(
            lambda records, epoch: (parse(records, record_format), epoch),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .prefetch(2)
    )


def batches(
    files: list[str],
    record_format: RecordFormat,
    batch_size: int,
    num_readers: int = 1,
    labels: bool = True,
    held_out: HeldOut | None = None,
) -> tf.data.Dataset:
    """Return batches of every video once; with one reader, in the order of files and records.

    Without `labels`, those of the records are ignored, and a batch has none. With `held_out`, only
    videos of that part are returned.
    """
    formats = [record_format]
    batches = batches_in_formats(files, formats, batch_size, num_readers, labels, held_out)
    return batches.map(lambda batch: batch)


def batches_in_formats(
    files: list[str],
    record_formats: list[RecordFormat],
    batch_size: int,
    num_readers: int = 1,
    labels: bool = True,
    held_out: HeldOut | None = None,
) -> tf.data.Dataset:
    """Return batches of every video once, each read once and parsed in every format.

    Elements are tuples with one batch per format. With `held_out`, only videos of that part.
    """
    records = _records(tf.data.Dataset.from_tensor_slices(files), num_readers)
    if held_out:
        records = records.filter(held_out.contains)
    return (
        records.batch(batch_size)
        .map(
            lambda batch: tuple(parse(batch, each, labels) for each in record_formats),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .prefetch(2)
    )


def training_inputs(batch: dict) -> dict:
    """Return a model's inputs in training, with frame-level features as separate tensors.

    Concatenating them is a pass over memory that not every model needs.
    """
    return {name: batch[name] for name in ("features", "num_frames") if name in batch}


def model_inputs(batch: dict) -> dict[str, tf.Tensor]:
    """Return a model's inputs in inference, with all features in one tensor [..., width]."""
    inputs = training_inputs(batch)
    if isinstance(inputs["features"], tuple):
        inputs["features"] = tf.concat(inputs["features"], axis=-1)
    return inputs


def model_input_spec(record_format: RecordFormat) -> dict[str, tf.TensorSpec]:
    """Return the shapes and types of `model_inputs`."""
    if record_format.frame_features:
        shape = [None, MAX_FRAMES, record_format.width]
        return {
            "features": tf.TensorSpec(shape, tf.uint8),
            "num_frames": tf.TensorSpec([None], tf.int32),
        }
    return {"features": tf.TensorSpec([None, record_format.width], tf.float32)}


def empty_batch(record_format: RecordFormat) -> dict:
    """Return a batch without videos."""
    batch = {"id": tf.zeros([0], tf.string), "labels": tf.zeros([0, LABEL_SLOTS], tf.int32)}
    if not record_format.frame_features:
        return batch | {"features": tf.zeros([0, record_format.width])}
    return batch | {
        "features": tuple(
            tf.zeros([0, MAX_FRAMES, feature.size], tf.uint8) for feature in record_format.features
        ),
        "num_frames": tf.zeros([0], tf.int32),
    }


def _read(file):
    """Return the serialized records of a file."""
    return tf.data.TFRecordDataset(file, buffer_size=READ_BUFFER_BYTES)


def _reader(record_format: RecordFormat, on_bad_record: Callable[[str], None] | None) -> Callable:
    """Return `_read`, or a function that skips bad records."""
    if on_bad_record is None:
        return _read

    def good_records(file: bytes):
        yield from examples.good_records(file.decode(), record_format, on_bad_record)

    signature = tf.TensorSpec([], tf.string)
    return lambda file: tf.data.Dataset.from_generator(
        good_records, output_signature=signature, args=[file]
    )


def _records(files: tf.data.Dataset, num_readers: int, read: Callable = _read) -> tf.data.Dataset:
    """Return serialized records of `num_readers` files in parallel, 16 of each in turn."""
    return files.interleave(
        read,
        cycle_length=num_readers,
        block_length=16,
        num_parallel_calls=num_readers,
        deterministic=True,
    )


def parse(
    records: tf.Tensor, record_format: RecordFormat, labels: bool = True
) -> dict[str, tf.Tensor]:
    """Parse serialized records, [batch] string, into a batch, with or without labels.

    Raises:
        tf.errors.InvalidArgumentError: a record does not match `record_format`. The message names
            neither file nor record; `explained` finds them.
    """
    context = dict(_IDS)
    if labels:
        context[LABELS_KEY] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    parse_level = _parse_frame_level if record_format.frame_features else _parse_video_level
    parsed, features = parse_level(records, record_format, context)
    ids = tf.where(parsed[ID_KEYS[0]] == "", parsed[ID_KEYS[1]], parsed[ID_KEYS[0]])
    batch = {"id": ids} | features
    return batch | {"labels": _labels(parsed[LABELS_KEY], record_format)} if labels else batch


_IDS = {key: tf.io.FixedLenFeature([], tf.string, "") for key in ID_KEYS}


def _parse_video_level(records, record_format, context):
    spec = {f.name: tf.io.FixedLenFeature([f.size], tf.float32) for f in record_format.features}
    parsed = tf.io.parse_example(records, context | spec)
    features = tf.concat([parsed[f.name] for f in record_format.features], axis=1)
    return parsed, {"features": features}


def _parse_frame_level(records, record_format, context):
    features = record_format.features
    spec = {f.name: tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64) for f in features}
    parsed, frames, _ = tf.io.parse_sequence_example(records, context, spec)
    num_frames = frames[features[0].name].row_lengths()
    for feature in features:  # a missing feature has no frames
        tf.debugging.assert_positive(frames[feature.name].row_lengths())
    return parsed, {
        "features": tuple(_frame_matrix(frames[f.name], f.size) for f in features),
        "num_frames": tf.cast(tf.minimum(num_frames, MAX_FRAMES), tf.int32),
    }


def _frame_matrix(frames: tf.RaggedTensor, size: int) -> tf.Tensor:
    """Decode frames into [batch, MAX_FRAMES, size] uint8, padded with zeros.

    Args:
        frames: [batch, (frames), (values)] string, one value per frame.
        size: length of a frame.
    """
    one_value = tf.debugging.assert_equal(frames.values.row_lengths(), tf.ones([], tf.int64))
    with tf.control_dependencies([one_value]):
        values = tf.io.decode_raw(frames.flat_values, tf.uint8)
    values = frames.with_values(tf.ensure_shape(values, [None, size]))
    return values.to_tensor(shape=[None, MAX_FRAMES, size])


def _labels(class_ids, record_format):
    """Return the distinct class ids of a ragged tensor, then -1: "labels" of a batch."""
    labels = class_ids.to_tensor(default_value=-1)
    most = tf.shape(labels)[1]
    slots = LABEL_SLOTS * tf.maximum((most + LABEL_SLOTS - 1) // LABEL_SLOTS, 1)
    labels = tf.pad(labels, [[0, 0], [0, slots - most]], constant_values=-1)
    values = class_ids.flat_values
    in_range = (values >= 0) & (values < record_format.num_classes)
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(in_range), ["label range"])]):
        labels = tf.cast(tf.sort(labels, axis=1, direction="DESCENDING"), tf.int32)
    again = tf.pad(labels[:, 1:] == labels[:, :-1], [[0, 0], [1, 0]])
    return tf.where(again, -1, labels)


@contextlib.contextmanager
def explained(files: list[str], record_format: RecordFormat, labels: bool = True):
    """Turn a failure to read `files` into a UserError that names file, record and reason.

    Without `labels`, a missing id and invalid labels are no reason.
    Running out of memory, in reading or in a step, is reported without searching the files.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as e:
        wanted = re.search("OOM when.*|$", e.message)[0]  # without the lines around it
        raise UserError(f"Out of memory. Reduce --batch_size. {wanted}") from e
    # UnicodeDecodeError: TensorFlow quotes bytes of the record in its message, which is not UTF-8.
    except (tf.errors.OpError, UnicodeDecodeError) as e:
        ignored = () if labels else ("no_id", "label_out_of_range")
        reason = examples.first_error(files, record_format, ignored)
        if reason is None:
            raise
        raise UserError(reason) from e
