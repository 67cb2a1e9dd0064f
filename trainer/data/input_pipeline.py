"""Read videos from TFRecord shards with tf.data, in an order determined by a seed.

A batch is a dict:

    "id":         [batch] string
    "labels":     [batch, LABEL_SLOTS or a multiple] int32, distinct class ids, then -1
    "features":   video level [batch, width] float32;
                  frame level a tuple, of each feature [batch, frames, size] uint8, where frames is
                  the smallest of FRAME_SLOTS that the batch's longest video fits in
    "num_frames": [batch] int32, frame level only
    "location":   [batch] int64, file and record, for `locate`; not in a batch of `parse`
"""

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError, reason
from trainer.data import examples, tfrecord
from trainer.data.records import ID_KEYS, LABELS_KEY, MAX_FRAMES, RecordFormat

# Sizes of the shuffle buffer. Shards are read in random order and hold videos in random order, so
# the buffer only needs to mix neighbours. A frame-level video takes about 250 KB.
SHUFFLED_VIDEOS = 16384
SHUFFLED_FRAME_LEVEL_VIDEOS = 2048
# Labels and frames are padded to one of a few lengths, so that batches have few shapes: each is
# traced and compiled anew. Segments of 5 frames divide the lengths.
LABEL_SLOTS = 32
FRAME_SLOTS = (10, 20, 40, 80, 160, 240, MAX_FRAMES)
READ_BUFFER_BYTES = 1 << 20
RECORDS_IN_TURN = 16  # of a file, before the next file's

# The location of a record is the number of its file times this, plus the record's from 0.
_RECORDS_PER_FILE = 1 << 32


class OtherFormatError(UserError):
    """A record is invalid in another than the first of several formats."""


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

    def contains(self, _location: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
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
    num_records: list[int] | None = None,
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
        num_records: number of records of each file. Files that the run has read completely before
            `start` are then not read again. None with `held_out`.
        held_out: videos to leave out.

    Returns:
        A dataset of (batch, epoch) pairs.
    """
    buffer = SHUFFLED_FRAME_LEVEL_VIDEOS if record_format.frame_features else SHUFFLED_VIDEOS
    shards = _Shards(files, record_format, on_bad_record)

    def in_order(epoch, read):
        """Records of `read(numbers)` in the order of an epoch, from the numbers of the files."""
        seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
        records = read(tf.random.experimental.stateless_shuffle(tf.range(len(files)), seeds))
        if held_out:
            records = records.filter(held_out.complement().contains)
        shuffle_seed = tf.random.stateless_uniform([], seeds, 1, 2**31 - 1, tf.int64)
        return records.shuffle(buffer, seed=shuffle_seed, reshuffle_each_iteration=False)

    def num_placeholders() -> np.ndarray:
        """Number of records of each file that was read completely before `start`, else 0."""
        counts = np.asarray(num_records, np.int64)
        repeat = tf.constant(counts)
        read = in_order(
            tf.constant(start.epoch, tf.int64),
            lambda numbers: _interleave(
                tf.data.Dataset.from_tensor_slices(numbers),
                num_readers,
                lambda number: tf.data.Dataset.from_tensors(number).repeat(repeat[number]),
            ),
        )
        done = np.zeros_like(counts)
        for numbers in read.take(start.videos).batch(1 << 16):
            done += np.bincount(numbers, minlength=len(files))
        return np.where(done == counts, counts, 0)

    placeholders = np.zeros(len(files), np.int64)
    if num_records is not None and start.videos:
        placeholders = num_placeholders()

    def epoch_batches(epoch):
        is_first = epoch == start.epoch
        skipped = tf.where(is_first, tf.constant(placeholders), 0)
        records = in_order(epoch, lambda numbers: shards.read(numbers, num_readers, skipped))
        done = tf.where(is_first, tf.constant(start.videos, tf.int64), 0)
        batches = records.skip(done).batch(batch_size)
        return batches.map(lambda *batch: (*batch, epoch))

    epochs = tf.data.Dataset.range(start.epoch, num_epochs)
    parsed = epochs.flat_map(epoch_batches).map(
        lambda locations, records, epoch: (shards.parse(locations, records), epoch),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _with_threads(parsed.prefetch(2), files, num_readers)


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

    Elements are tuples with one batch per format. `explained` raises an OtherFormatError for a
    record that is invalid in another format than the first. With `held_out`, only videos of that
    part are returned.
    """
    first, *others = (
        _Shards(
            files, record_format, labels=labels, error=OtherFormatError if number else UserError
        )
        for number, record_format in enumerate(record_formats)
    )

    def parse_all(locations, records):
        batch = first.parse(locations, records)
        with tf.control_dependencies(tf.nest.flatten(batch)):
            return batch, *[shards.parse(locations, records) for shards in others]

    records = first.read(tf.range(len(files)), num_readers)
    if held_out:
        records = records.filter(held_out.contains)
    parsed = records.batch(batch_size).map(
        parse_all, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return _with_threads(parsed.prefetch(2), files, num_readers)


def locate(location: int, files: list[str]) -> str:
    """Name the file and record of a "location" in a batch that was read from `files`."""
    number, record = divmod(int(location), _RECORDS_PER_FILE)
    return f"{files[number]}, record {record + 1}"


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
        shape = [None, None, record_format.width]
        return {
            "features": tf.TensorSpec(shape, tf.uint8),
            "num_frames": tf.TensorSpec([None], tf.int32),
        }
    return {"features": tf.TensorSpec([None, record_format.width], tf.float32)}


def empty_batch(record_format: RecordFormat) -> dict:
    """Return a batch without videos."""
    batch = {
        "id": tf.zeros([0], tf.string),
        "labels": tf.zeros([0, LABEL_SLOTS], tf.int32),
        "location": tf.zeros([0], tf.int64),
    }
    if not record_format.frame_features:
        return batch | {"features": tf.zeros([0, record_format.width])}
    return batch | {
        "features": tuple(
            tf.zeros([0, FRAME_SLOTS[0], feature.size], tf.uint8)
            for feature in record_format.features
        ),
        "num_frames": tf.zeros([0], tf.int32),
    }


def _interleave(
    files: tf.data.Dataset, num_readers: int, read: Callable, parallel: bool = True
) -> tf.data.Dataset:
    """Interleave the datasets `read(*file)` of `num_readers` files, RECORDS_IN_TURN at a time."""
    return files.interleave(
        read,
        cycle_length=num_readers,
        block_length=RECORDS_IN_TURN,
        num_parallel_calls=num_readers if parallel else None,
        deterministic=parallel or None,
    )


def _with_threads(dataset: tf.data.Dataset, files: list[str], num_readers: int) -> tf.data.Dataset:
    """Add threads for downloads, each of which occupies one: by default, there is one per core."""
    options = tf.data.Options()
    if any(map(storage.is_remote, files)):
        options.threading.private_threadpool_size = num_readers + os.cpu_count()
    return dataset.with_options(options)


class _Shards:
    """Reads and parses the records of `files`, and names those that it cannot read.

    Args:
        files: the shards.
        record_format: the expected format of their records.
        on_bad_record: see `training_batches`.
        labels: whether to parse labels. If not, a missing id and invalid labels are no problem.
        error: class of the error of an invalid record.
    """

    def __init__(
        self,
        files: list[str],
        record_format: RecordFormat,
        on_bad_record: Callable[[str], None] | None = None,
        labels: bool = True,
        error: type[UserError] = UserError,
    ):
        self._error = error
        self._files = files
        self._is_remote = any(map(storage.is_remote, files))
        self._record_format = record_format
        self._on_bad_record = on_bad_record
        self._labels = labels
        self._batch_spec = _batch_spec(record_format, labels)
        self._downloads: dict[str, BinaryIO] = {}
        self._parse = _compiled_parse(record_format, labels)

    def read(
        self, numbers: tf.Tensor, num_readers: int, num_placeholders: tf.Tensor | None = None
    ) -> tf.data.Dataset:
        """Return location and data of each record.

        Args:
            numbers: [files], those of the files, in the order to read them in.
            num_readers: number of files to read at a time.
            num_placeholders: [files] int64; of a file where it is not 0, return that many empty
                records instead of reading it. None for zeros.
        """
        if num_placeholders is None:
            num_placeholders = tf.zeros_like(numbers, tf.int64)
        opened = tf.data.Dataset.from_tensor_slices(numbers).map(
            lambda number: self._open(number, num_placeholders[number]),
            num_parallel_calls=num_readers,
            deterministic=True,
        )
        # Reading downloads in parallel would open, and so download, more of them ahead.
        parallel = not self._is_remote or self._on_bad_record is not None
        return _interleave(opened, num_readers, self._read_one, parallel)

    def _open(self, number, num_placeholders):
        """Open a file.

        Returns:
            number: the file's.
            paths: [1] string, the path to read from; [0] for placeholders.
            num_records: scalar int64.
        """
        if self._on_bad_record:
            return number, tf.constant([], tf.string), tf.constant(0, tf.int64)
        paths, num_records = tf.py_function(
            self._open_eagerly, [number, num_placeholders], [tf.string, tf.int64]
        )
        return number, tf.ensure_shape(paths, [None]), tf.ensure_shape(num_records, [])

    def _read_one(self, number, paths, num_records) -> tf.data.Dataset:
        """Return location and data of each record of a file that `_open` opened."""
        first = tf.cast(number, tf.int64) * _RECORDS_PER_FILE
        if self._on_bad_record:
            return tf.data.Dataset.from_generator(
                self._good_records,
                output_signature=(tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.string)),
                args=[number],
            ).map(lambda record, data: (first + record, data))
        records = tf.data.TFRecordDataset(paths, buffer_size=READ_BUFFER_BYTES).ignore_errors()
        placeholders = tf.data.Dataset.from_tensors("").repeat(
            tf.where(tf.size(paths) == 0, num_records, 0)
        )
        # TensorFlow's errors do not name the file, and a file that ends within a record's header is
        # no error to it: `damaged` takes the place of a record that is missing.
        damaged = tf.data.Dataset.from_tensors(number).map(self._damaged)
        records = records.concatenate(placeholders).concatenate(damaged).take(num_records)
        records = records.enumerate(first)
        return records.concatenate(self._closing(paths)) if self._is_remote else records

    def _open_eagerly(self, number, num_placeholders):
        if num_placeholders:
            return tf.constant([], tf.string), num_placeholders
        path = self._files[int(number)]
        local = self._download(path) if storage.is_remote(path) else path
        try:
            return [local], tfrecord.num_records(local)
        except tfrecord.BadRecord as error:
            return [local], error.record

    def _download(self, path: str) -> str:
        """Download a file, whole and ahead of its turn, which is faster than reading in parts.

        Returns:
            Path of the local copy, which has no name: the system removes it when the process ends.
        """
        file = tempfile.TemporaryFile(prefix="yt8m-")  # noqa: SIM115 - closed after reading
        storage.download(path, file)
        local = f"/proc/self/fd/{file.fileno()}"
        self._downloads[local] = file
        return local

    def _closing(self, paths) -> tf.data.Dataset:
        """Return an empty dataset that closes downloads at its end."""

        def close(paths):
            for path in paths.numpy():
                if file := self._downloads.pop(path.decode(), None):
                    file.close()
            return False

        record = tf.data.Dataset.from_tensors((tf.constant(0, tf.int64), ""))
        return record.filter(lambda *_: tf.ensure_shape(tf.py_function(close, [paths], bool), []))

    def _damaged(self, number) -> tf.Tensor:
        """Raise an error that names the damaged record of a file."""

        def search(number):
            path = self._files[int(number)]
            for record in tfrecord.scan_records(path):
                if isinstance(record, tfrecord.BadRecord):
                    raise UserError(str(record))
            raise UserError(f"Cannot read all records of {path}, although none is damaged.")

        return tf.ensure_shape(tf.py_function(search, [number], tf.string), [])

    def _good_records(self, number):
        records = examples.good_records(
            self._files[number], self._record_format, self._on_bad_record
        )
        for record, data in records:
            yield record - 1, data

    def parse(self, locations: tf.Tensor, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parse serialized records, [batch] string, into a batch.

        Raises:
            UserError: a record is invalid, inside of TensorFlow's error; see `explained`.
        """
        specs = tf.nest.flatten(self._batch_spec)
        tensors = tf.py_function(
            self._parse_eagerly, [locations, records], [spec.dtype for spec in specs]
        )
        tensors = [tf.ensure_shape(t, s.shape) for t, s in zip(tensors, specs, strict=True)]
        return tf.nest.pack_sequence_as(self._batch_spec, tensors) | {"location": locations}

    def _parse_eagerly(self, locations, records):
        try:
            with tf.device("CPU"):
                batch = self._parse(records)
        # UnicodeDecodeError: TensorFlow quotes bytes of the record, which are not UTF-8.
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
            batch = None
        if batch is None or (self._labels and not np.all(batch["id"].numpy() != b"")):
            raise self._error(self._first_problem(locations.numpy(), records.numpy()))
        return tf.nest.flatten(batch)

    def _first_problem(self, locations, records) -> str:
        ignored = () if self._labels else ("no_id", "label_out_of_range")
        for location, record in sorted(zip(locations, records, strict=True)):
            problem = examples.first_problem(record, self._record_format, ignored)
            if not problem:
                try:
                    self._parse(tf.constant([record]))
                except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
                    problem = "TensorFlow cannot parse it"
            if problem:
                return f"{locate(location, self._files)}: {problem}."
        raise AssertionError("All records are valid.")


@functools.cache
def _compiled_parse(record_format: RecordFormat, labels: bool) -> Callable:
    """`parse` of a batch of any size, traced once."""
    function = tf.function(
        lambda records: parse(records, record_format, labels),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    return function.get_concrete_function()


def _batch_spec(record_format: RecordFormat, labels: bool) -> dict:
    """Shapes and types of a batch of `parse`."""
    spec = {"id": tf.TensorSpec([None], tf.string)}
    if labels:
        spec["labels"] = tf.TensorSpec([None, None], tf.int32)
    if not record_format.frame_features:
        return spec | {"features": tf.TensorSpec([None, record_format.width], tf.float32)}
    return spec | {
        "features": tuple(
            tf.TensorSpec([None, None, feature.size], tf.uint8)
            for feature in record_format.features
        ),
        "num_frames": tf.TensorSpec([None], tf.int32),
    }


def parse(
    records: tf.Tensor, record_format: RecordFormat, labels: bool = True
) -> dict[str, tf.Tensor]:
    """Parse serialized records, [batch] string, into a batch, with or without labels.

    Raises:
        tf.errors.InvalidArgumentError: a record does not match `record_format`.
    """
    context = dict(_IDS)
    if labels:
        context[LABELS_KEY] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    parse_level = _parse_frame_level if record_format.frame_features else _parse_video_level
    parsed, features = parse_level(records, record_format, context)
    batch = {"id": _first_value(*[parsed[key] for key in ID_KEYS])} | features
    return batch | {"labels": _labels(parsed[LABELS_KEY], record_format)} if labels else batch


_IDS = {key: tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64) for key in ID_KEYS}


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
    tf.debugging.assert_positive(num_frames)  # a missing feature has no frames
    for feature in features[1:]:
        tf.debugging.assert_equal(frames[feature.name].row_lengths(), num_frames)
    num_frames = tf.cast(tf.minimum(num_frames, MAX_FRAMES), tf.int32)
    slots = tf.constant(FRAME_SLOTS)
    longest = tf.reduce_max(tf.concat([num_frames, [1]], axis=0))
    num_slots = slots[tf.searchsorted(slots, longest[None])[0]]
    return parsed, {
        "features": tuple(_frame_matrix(frames[f.name], f.size, num_slots) for f in features),
        "num_frames": num_frames,
    }


def _frame_matrix(frames: tf.RaggedTensor, size: int, num_slots: tf.Tensor) -> tf.Tensor:
    """Decode frames into [batch, num_slots, size] uint8, padded with zeros or cut.

    Args:
        frames: [batch, (frames), (values)] string, one value per frame.
        size: length of a frame.
        num_slots: number of frames per video.
    """
    one_value = tf.debugging.assert_equal(frames.values.row_lengths(), tf.ones([], tf.int64))
    with tf.control_dependencies([one_value]):
        values = tf.io.decode_raw(frames.flat_values, tf.uint8)
    values = frames.with_values(tf.ensure_shape(values, [None, size]))
    return values.to_tensor(shape=tf.stack([-1, num_slots, size]))


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


def _first_value(first: tf.RaggedTensor, second: tf.RaggedTensor) -> tf.Tensor:
    """The only value of each row of `first`, else of `second`; "" if both are empty."""
    has_first = first.row_lengths() > 0
    values = tf.where(has_first, *[v.to_tensor("", shape=[None, 1])[:, 0] for v in (first, second)])
    num_values = tf.where(has_first, first.row_lengths(), second.row_lengths())
    with tf.control_dependencies([tf.debugging.assert_less(num_values, tf.constant(2, tf.int64))]):
        return tf.identity(values)


# The last line of a Python traceback in TensorFlow's message.
_USER_ERROR = r"^[\w.]*(UserError|OtherFormatError): (.*?)\n\n"


@contextlib.contextmanager
def explained():
    """Turn a failure to read into a UserError that names file, record and reason.

    Running out of memory, in reading or in a step, is reported too.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as e:
        wanted = re.search("OOM when.*|$", e.message)[0]  # without the lines around it
        raise UserError(f"Out of memory. Reduce --batch_size. {wanted}") from e
    except tf.errors.OpError as e:
        if "IteratorGetNext" not in e.message:
            raise
        # An error of Python's, at the end of its traceback.
        if named := re.findall(_USER_ERROR, e.message, re.MULTILINE | re.DOTALL):
            name, message = named[-1]
            raise (OtherFormatError if name == "OtherFormatError" else UserError)(message) from e
        raise UserError(f"Cannot read the records: {reason(e)}.") from e
