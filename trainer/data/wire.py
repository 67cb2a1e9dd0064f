"""tf.Example and tf.SequenceExample on the wire, without TensorFlow.

The messages are those of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto and
example.proto, declared here with what their maps hold as plain bytes.
From those bytes numpy takes a whole vector, or all frames of a video, at once. A layout that it
cannot take so is rare, and read by protobuf, value by value.

An Example has the bytes of a SequenceExample without feature lists, so one declaration does.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError  # noqa: F401  (what `decode` and others raise)

from trainer.common.messages import declare

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
        # A map is, on the wire, a row of entries. The values here are Features or FeatureLists; of
        # a oneof, an empty one is written too, without which TensorFlow's parser takes no entry.
        "Entry": ["optional string key = 1", "oneof bytes value = 2"],
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
    floats = _header(_FLOAT_TAGS, len(feature))
    if feature.startswith(floats) and (len(feature) - len(floats)) % 4 == 0:
        return np.frombuffer(feature, "<f4", offset=len(floats))
    one_string = _header(_BYTES_TAGS, len(feature))
    if feature.startswith(one_string):
        return [feature[len(one_string) :]]
    return _values(_MESSAGES.Feature.FromString(feature))


def frames(feature_list: bytes) -> np.ndarray | list:
    """The frames of a feature list.

    Returns:
        uint8 [frames, size], where all frames are byte strings of the same length. Otherwise a
        list of what `values` returns, a frame each.

    Raises:
        DecodeError: it is no tf.train.FeatureList.
    """
    size = _first_size(feature_list)
    header = _header(_FRAME_TAGS, size)
    if feature_list.startswith(header) and len(feature_list) % size == 0:
        rows = np.frombuffer(feature_list, np.uint8).reshape(-1, size)
        if (rows[:, : len(header)] == rows[0, : len(header)]).all():  # all have the same layout
            return rows[:, len(header) :]
    found = [_values(feature) for feature in _MESSAGES.FeatureList.FromString(feature_list).feature]
    rows = _rows(found)
    return found if rows is None else rows


def _rows(frames: list) -> np.ndarray | None:
    """The same frames in one array; None where they are not byte strings of the same length."""
    strings = [frame[0] for frame in frames if isinstance(frame, list) and len(frame) == 1]
    if len(strings) < len(frames) or len({len(string) for string in strings}) != 1:
        return None
    return np.frombuffer(b"".join(strings), np.uint8).reshape(len(strings), len(strings[0]))


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
_FLOAT_TAGS = b"\x12\x0a"  # Feature.float_list, FloatList.value (packed)
_BYTES_TAGS = b"\x0a\x0a"  # Feature.bytes_list, BytesList.value
_FRAME_TAGS = b"\x0a\x0a\x0a"  # FeatureList.feature, and the same two

_NEVER = b"\xff\xff\xff\xff\xff"  # what no message starts with


@functools.lru_cache(maxsize=4096)
def _header(tags: bytes, size: int) -> bytes:
    """What `size` bytes start with, if they are these fields and nothing else."""
    header = b""
    for tag in tags:
        left = size - len(header) - 1
        length = next((left - n for n in range(1, 6) if len(_varint(left - n)) == n), None)
        if length is None:
            return _NEVER
        header += bytes([tag]) + _varint(length)
    return header


def _varint(number: int) -> bytes:
    """A number as seven bits a byte, the lowest first; b"": it is negative."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(encoded) + bytes([number]) if number >= 0 else b""


def _first_size(data: bytes) -> int:
    """Bytes of the first field, if it is length-delimited."""
    length, position = 0, 1
    for byte in data[1:6]:
        length |= (byte & 0x7F) << 7 * (position - 1)
        position += 1
        if byte < 0x80:
            break
    return position + length
