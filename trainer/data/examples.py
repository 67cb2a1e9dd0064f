"""Parse, check and write video records: tf.Example and tf.SequenceExample without TensorFlow.

The messages are generated from example.proto, because no small package provides them and Beam
workers would spend seconds and hundreds of megabytes on loading TensorFlow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from trainer.data import example_pb2, wire
from trainer.data.records import ID_KEYS, LABELS_KEY, Feature, RecordFormat
from trainer.data.tfrecord import BadRecord, scan_records

# What one feature of a tf.Example is made from.
Values = bytes | str | int | float | np.ndarray | Sequence

_EXTRA_TYPES = {"bytes_list": "bytes", "int64_list": "int64", "float_list": "float", None: "empty"}


@dataclass(frozen=True)
class Video:
    """One parsed record.

    Attributes:
        id: Video id; "" if missing.
        labels: Class ids, int64 [num_labels]; empty for an unlabelled video.
        features: Name -> vector, float32 [size], or frames, uint8 [num_frames, size]; read-only.
        extra: Other features in the record: name -> "bytes", "int64", "float", "frames" or
            "empty".
    """

    id: str
    labels: np.ndarray
    features: dict[str, np.ndarray]
    extra: dict[str, str] = field(default_factory=dict)


class Problem(NamedTuple):
    """A reason why a record cannot be used for training."""

    kind: str  # a key of components.validate_data.findings.KINDS
    reason: str  # expected and found values, for people


def parse(serialized: bytes, record_format: RecordFormat) -> Video:
    """Parse a record.

    Raises:
        ValueError: The record is invalid; the message says why.
    """
    video, problems = inspect(serialized, record_format)
    if problems:
        raise ValueError(problems[0].reason)
    return video


def good_records(
    path: str, record_format: RecordFormat, on_bad_record: Callable[[str], None]
) -> Iterator[tuple[int, bytes]]:
    """Yield number, from 1, and data of each valid record of a file.

    Args:
        path: the file.
        record_format: the expected format of its records.
        on_bad_record: function to call with file, number and problem of each invalid record.
    """
    for number, record in enumerate(scan_records(path), start=1):
        if isinstance(record, BadRecord):
            on_bad_record(str(record))
        elif problem := first_problem(record, record_format):
            on_bad_record(f"{path}, record {number}: {problem}.")
        else:
            yield number, record


def first_problem(
    serialized: bytes, record_format: RecordFormat, ignored_kinds: Sequence[str] = ()
) -> str | None:
    """Return the reason why a record is invalid; None if it is valid.

    Problems of `ignored_kinds` do not make it invalid.
    """
    for kind, reason in inspect(serialized, record_format)[1]:
        if kind not in ignored_kinds:
            return reason
    return None


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Serialize a tf.Example.

    Args:
        features: Name -> bytes, text, an integer, a float, or a list or array of one of these.
    """
    example = example_pb2.Example(features=_encode_features(features))
    return example.SerializeToString(deterministic=True)


def encode_sequence_example(
    context: Mapping[str, Values], feature_lists: Mapping[str, np.ndarray | Sequence[Values]]
) -> bytes:
    """Serialize a tf.SequenceExample.

    Args:
        context: As the features of `encode_example`.
        feature_lists: Name -> frames, uint8 [num_frames, size], stored as one byte string per
            frame; or a list with the values of each frame.
    """
    lists = {name: _encode_frames(frames) for name, frames in feature_lists.items()}
    example = example_pb2.SequenceExample(
        context=_encode_features(context),
        feature_lists=example_pb2.FeatureLists(feature_list=lists),
    )
    return example.SerializeToString(deterministic=True)


def _encode_features(features: Mapping[str, Values]) -> example_pb2.Features:
    encoded = {name: _encode_values(values) for name, values in features.items()}
    return example_pb2.Features(feature=encoded)


def _encode_frames(frames: np.ndarray | Sequence[Values]) -> example_pb2.FeatureList:
    if isinstance(frames, np.ndarray):
        frames = [frame.tobytes() for frame in frames]
    return example_pb2.FeatureList(feature=[_encode_values(frame) for frame in frames])


def _encode_values(values: Values) -> example_pb2.Feature:
    if isinstance(values, bytes | str) or not isinstance(values, np.ndarray | Sequence):
        values = [values]
    if isinstance(values, Sequence) and not values:
        return example_pb2.Feature()  # an empty list of unknown type
    if len(values) and isinstance(values[0], bytes | str):
        strings = [value.encode() if isinstance(value, str) else value for value in values]
        return example_pb2.Feature(bytes_list=example_pb2.BytesList(value=strings))
    numbers = np.asarray(values)
    if numbers.dtype.kind == "f":
        return example_pb2.Feature(float_list=example_pb2.FloatList(value=numbers.tolist()))
    return example_pb2.Feature(int64_list=example_pb2.Int64List(value=numbers.tolist()))


def inspect(serialized: bytes, record_format: RecordFormat) -> tuple[Video, list[Problem]]:
    """Parse as much of a record as possible, and return all its problems.

    A vector with NaN or infinity is included in the video; other invalid features are not.
    """
    try:
        # An Example has the encoding of a SequenceExample without feature lists.
        record = example_pb2.SequenceExample.FromString(serialized)
    except DecodeError:
        return _no_video(record_format, "found other data")
    if not _is_canonical(record, serialized) and not wire.is_unambiguous(
        serialized, record_format.frame_features
    ):
        return _no_video(record_format, "found one with repeated, split or unknown fields")
    context, frame_lists = record.context.feature, record.feature_lists.feature_list
    problems: list[Problem] = []
    video = Video(
        _id(context, problems),
        _labels(context, record_format.num_classes, problems),
        _features(context, frame_lists, record_format, problems),
        _extra(context, frame_lists, record_format),
    )
    return video, problems


def _no_video(record_format: RecordFormat, found: str) -> tuple[Video, list[Problem]]:
    kind = "SequenceExample" if record_format.frame_features else "Example"
    problem = Problem("not_an_example", f"expected a tf.{kind}, {found}")
    return Video("", np.empty(0, np.int64), {}), [problem]


def _is_canonical(record: example_pb2.SequenceExample, serialized: bytes) -> bool:
    """Whether a record has the encoding that protobuf's own libraries write, which is unambiguous.

    A quick check of most records, in place of `wire.is_unambiguous`.
    """
    record.DiscardUnknownFields()
    if record.ByteSize() != len(serialized):
        return False
    maps = record.context.feature, record.feature_lists.feature_list
    return all(_entry(*item) in serialized for each in maps for item in each.items())


def _entry(key: str, value: example_pb2.Feature | example_pb2.FeatureList) -> bytes:
    """The canonical encoding of a feature and its name."""
    encoded = key.encode()
    parts = b"\x0a", _varint(len(encoded)), encoded, b"\x12", _varint(value.ByteSize())
    return b"".join((*parts, value.SerializeToString()))


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def _id(context: Mapping[str, example_pb2.Feature], problems: list[Problem]) -> str:
    """The first id that has a value. An empty `id` may stand beside a `video_id`."""
    found = {key: _values(context[key]) for key in ID_KEYS if key in context}
    for key, values in found.items():
        if values is not None and not isinstance(values, list):
            reason = f"{key!r} must be one non-empty byte string, found {_describe(values)}"
            problems.append(Problem("no_id", reason))
            return ""
    for key, values in found.items():
        if values:
            if len(values) == 1 and values[0]:
                return values[0].decode("utf-8", "backslashreplace")
            reason = f"{key!r} must be one non-empty byte string, found {_describe(values)}"
            problems.append(Problem("no_id", reason))
            return ""
    reason = f"no id: expected {' or '.join(map(repr, ID_KEYS))}, found {_names(context)}"
    problems.append(Problem("no_id", reason))
    return ""


def _labels(
    context: Mapping[str, example_pb2.Feature], num_classes: int, problems: list[Problem]
) -> np.ndarray:
    labels = _values(context[LABELS_KEY]) if LABELS_KEY in context else None
    if labels is None:
        return np.empty(0, np.int64)
    if not _is_array(labels, np.int64):
        reason = f"{LABELS_KEY!r} must be int64, found {_describe(labels)}"
        problems.append(Problem("wrong_type", reason))
        return np.empty(0, np.int64)
    for label in labels.tolist():
        if not 0 <= label < num_classes:
            reason = f"label {label} is out of range: expected 0 to {num_classes - 1}"
            problems.append(Problem("label_out_of_range", reason))
            break
    return labels


def _features(
    context: Mapping[str, example_pb2.Feature],
    frame_lists: Mapping[str, example_pb2.FeatureList],
    record_format: RecordFormat,
    problems: list[Problem],
) -> dict[str, np.ndarray]:
    present, read = (frame_lists, _frames) if record_format.frame_features else (context, _vector)
    features = {}
    for feature in record_format.features:
        if feature.name not in present:
            problems.append(_missing(feature, context, frame_lists, record_format.frame_features))
        elif (value := read(present[feature.name], feature, problems)) is not None:
            features[feature.name] = value
    if record_format.frame_features:
        _check_lengths(features, problems)
    return features


def _check_lengths(features: dict[str, np.ndarray], problems: list[Problem]):
    """Check that all features of a video have as many frames: a frame is a second of it."""
    lengths = {name: len(frames) for name, frames in features.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
        reason = f"all features must have the same number of frames, found {found}"
        problems.append(Problem("different_lengths", reason))


def _missing(
    feature: Feature, context: Mapping, frame_lists: Mapping, frame_features: bool
) -> Problem:
    level = "frame" if frame_features else "video"
    return Problem(
        "missing_feature",
        f"no {level}-level feature {feature.name!r}: found at video level {_names(context)}, "
        f"at frame level {_names(frame_lists)}",
    )


def _vector(
    message: example_pb2.Feature, feature: Feature, problems: list[Problem]
) -> np.ndarray | None:
    vector = _values(message)
    if not _is_array(vector, np.float32):
        reason = f"{feature.name!r} must be {feature.size} floats, found {_describe(vector)}"
        problems.append(Problem("wrong_type", reason))
        return None
    if len(vector) != feature.size:
        reason = f"{feature.name!r} must be {feature.size} floats, found {len(vector)}"
        problems.append(Problem("wrong_size", reason))
        return None
    if not np.isfinite(vector).all():
        position = int(np.argmin(np.isfinite(vector)))
        reason = f"{feature.name!r} must be finite, found {vector[position]} at position {position}"
        problems.append(Problem("not_finite", reason))
    return vector


def _frames(
    message: example_pb2.FeatureList, feature: Feature, problems: list[Problem]
) -> np.ndarray | None:
    if not message.feature:
        problems.append(Problem("no_frames", f"{feature.name!r} has no frames, expected some"))
        return None
    values = [frame.bytes_list.value for frame in message.feature]
    strings = [strings[0] for strings in values if len(strings) == 1]
    if len(strings) == len(values) and set(map(len, strings)) == {feature.size}:
        return np.frombuffer(b"".join(strings), np.uint8).reshape(-1, feature.size)
    problems.append(_bad_frame(message, feature))
    return None


def _bad_frame(message: example_pb2.FeatureList, feature: Feature) -> Problem:
    """The problem of the first frame that is not one byte string of the expected length."""
    for number, frame in enumerate(map(_values, message.feature), start=1):
        expected = f"frame {number} of {feature.name!r} must be {feature.size} bytes"
        if not isinstance(frame, list) or len(frame) != 1:
            return Problem("wrong_type", f"{expected}, found {_describe(frame)}")
        if len(frame[0]) != feature.size:
            return Problem("wrong_size", f"{expected}, found {len(frame[0])}")
    raise AssertionError("All frames are valid.")


def _extra(context: Mapping, frame_lists: Mapping, record_format: RecordFormat) -> dict[str, str]:
    """Types of the features other than the id, the labels and the expected features, by name."""
    expected = [*ID_KEYS, LABELS_KEY, *[feature.name for feature in record_format.features]]
    extra = {
        name: _EXTRA_TYPES[context[name].WhichOneof("kind")]
        for name in context
        if name not in expected
    }
    for name in frame_lists:
        if name not in expected:
            extra[name] = "frames"
    return extra


def _values(feature: example_pb2.Feature) -> list[bytes] | np.ndarray | None:
    """The values as byte strings, float32 [num_values] or int64 [num_values]; None if untyped."""
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        return _floats(feature.float_list)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value) if kind else None


def _floats(float_list: example_pb2.FloatList) -> np.ndarray:
    # Ten times faster than element by element: a serialized FloatList ends with its values.
    float_list.DiscardUnknownFields()
    num_bytes = 4 * len(float_list.value)
    serialized = float_list.SerializeToString()
    return np.frombuffer(serialized[len(serialized) - num_bytes :], "<f4")


def _is_array(values: list[bytes] | np.ndarray | None, dtype) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == dtype


def _describe(values: list[bytes] | np.ndarray | None) -> str:
    if values is None:
        return "an empty feature"
    if isinstance(values, list) and values == [b""]:
        return "an empty byte string"
    kind = "byte string" if isinstance(values, list) else f"{values.dtype} value"
    return f"{len(values)} {kind}{'' if len(values) == 1 else 's'}"


def _names(present: Mapping) -> str:
    return ", ".join(map(repr, sorted(present))) or "none"
