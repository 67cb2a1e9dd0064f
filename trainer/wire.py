"""tf.Example and tf.SequenceExample on the wire, without TensorFlow.

The messages are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto and
example.proto, declared here with what their maps hold as plain bytes.
From those bytes numpy takes a whole vector, or all frames of a video, at once. A layout that it
cannot take so is rare, and read by protobuf, value by value.

An Example has the bytes of a SequenceExample without feature lists, so one declaration does.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError  # noqa: F401  (what `decode` and others raise)

from trainer.messages import declare

Values = bytes | str | int | float | np.ndarray | Sequence

_MESSAGES = declare(
    "proto3",
    {
        "BytesList": ["repeated bytes value = 1"],
        "FloatList": ["repeated float value = 1"],
        "Int64List": ["repeated int64 value = 1"],
        "Feature": [
            "oneof BytesList bytes_list = 1",
            "oneof FloatList float_list = 2",
            "oneof Int64List int64_list = 3",
        ],
        "FeatureList": ["repeated Feature feature = 1"],
        # A map is, on the wire, a row of entries. The values here are Features or FeatureLists.
        "Entry": ["optional string key = 1", "optional bytes value = 2"],
        "Entries": ["repeated Entry entry = 1"],
        "Record": ["optional Entries context = 1", "optional Entries feature_lists = 2"],
    },
)


def decode(serialized: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What is in a record: its features, or context, and its frame lists, by name.

    `values` reads one of the former, `frames` one of the latter.

    Raises:
        DecodeError: it is neither a tf.Example nor a tf.SequenceExample.
    """
    record = _MESSAGES.Record.FromString(serialized)
    context = {entry.key: entry.value for entry in record.context.entry}
    return context, {entry.key: entry.value for entry in record.feature_lists.entry}


def values(feature: bytes) -> list[bytes] | np.ndarray | None:
    """The values of a feature: byte strings, float32 [values] or int64 [values].

    None: it has no values and no type.

    Raises:
        DecodeError: it is no tf.train.Feature.
    """
    start = _payload_start(feature, _FLOAT_TAGS)
    if start and (len(feature) - start) % 4 == 0:
        return np.frombuffer(feature, "<f4", offset=start)
    return _values(_MESSAGES.Feature.FromString(feature))


def frames(feature_list: bytes) -> np.ndarray | list:
    """The frames of a feature list.

    Returns:
        uint8 [frames, size], where all frames are byte strings of the same length. Otherwise a
        list of what `values` returns, a frame each.

    Raises:
        DecodeError: it is no tf.train.FeatureList.
    """
    end_of_first = _payload_end(feature_list)
    start = _payload_start(feature_list[:end_of_first], _FRAME_TAGS)
    if start and len(feature_list) % end_of_first == 0:
        rows = np.frombuffer(feature_list, np.uint8).reshape(-1, end_of_first)
        if (rows[:, :start] == rows[0, :start]).all():  # every frame has the first one's layout
            return rows[:, start:]
    return [_values(feature) for feature in _MESSAGES.FeatureList.FromString(feature_list).feature]


def encode(
    context: Mapping[str, Values], frame_lists: Mapping[str, np.ndarray | Sequence[Values]]
) -> bytes:
    """A serialised tf.SequenceExample, or, without frame lists, a tf.Example.

    Args:
        context: Name -> byte strings, integers or floats, or one of them.
        frame_lists: Name -> uint8 [frames, size], or a list with what a context may hold a frame.
    """
    record = _MESSAGES.Record()
    for name, value in context.items():
        record.context.entry.add(key=name, value=_feature(value).SerializeToString())
    for name, value in frame_lists.items():
        record.feature_lists.entry.add(key=name, value=_encode_frames(value))
    return record.SerializeToString()


def _values(feature) -> list[bytes] | np.ndarray | None:
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value) if kind else None


def _feature(value: Values):
    if isinstance(value, bytes | str) or not isinstance(value, np.ndarray | Sequence):
        value = [value]
    if isinstance(value, Sequence) and not value:
        return _MESSAGES.Feature()  # of no type, which passes for an empty list of any
    if len(value) and isinstance(value[0], bytes | str):
        strings = [item.encode() if isinstance(item, str) else item for item in value]
        return _MESSAGES.Feature(bytes_list=_MESSAGES.BytesList(value=strings))
    numbers = np.asarray(value)
    if numbers.dtype.kind == "f":
        return _MESSAGES.Feature(float_list=_MESSAGES.FloatList(value=numbers.tolist()))
    return _MESSAGES.Feature(int64_list=_MESSAGES.Int64List(value=numbers.tolist()))


def _encode_frames(frames: np.ndarray | Sequence[Values]) -> bytes:
    if not isinstance(frames, np.ndarray):
        return _MESSAGES.FeatureList(
            feature=[_feature(frame) for frame in frames]
        ).SerializeToString()
    if len(frames) == 0:
        return b""
    # All frames are of one length, so each is the first one's layout around its own bytes.
    first = _MESSAGES.FeatureList(feature=[_feature(frames[0].tobytes())]).SerializeToString()
    layout = np.frombuffer(first[: len(first) - frames.shape[1]], np.uint8)
    rows = np.empty((len(frames), len(first)), np.uint8)
    rows[:, : len(layout)] = layout
    rows[:, len(layout) :] = frames
    return rows.tobytes()


# --- protobuf's wire format (https://protobuf.dev/programming-guides/encoding/) ----------------

# Tags of length-delimited fields, each wrapped around the next.
_FLOAT_TAGS = (0x12, 0x0A)  # Feature.float_list, FloatList.value (packed)
_FRAME_TAGS = (0x0A, 0x0A, 0x0A)  # FeatureList.feature, Feature.bytes_list, BytesList.value


def _payload_start(data: bytes, tags: tuple[int, ...]) -> int:
    """Where the innermost field's payload starts; 0: `data` is not these fields and no more."""
    position = 0
    for tag in tags:
        if data[position : position + 1] != bytes((tag,)):
            return 0
        length, position = _varint(data, position + 1)
        if position + length != len(data):
            return 0
    return position


def _payload_end(data: bytes) -> int:
    """Where the first field ends, if it is length-delimited."""
    length, position = _varint(data, 1)
    return position + length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    number = 0
    for shift in range(0, 64, 7):
        byte = data[position] if position < len(data) else 0
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return number, position
