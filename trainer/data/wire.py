"""Whether TensorFlow reads a record as protobuf does.

TensorFlow parses tf.Example and tf.SequenceExample with a parser of its own, which is stricter than
protobuf's in some places, and reads something else in others: of labels in two packed lists it
takes one, where protobuf joins them. Training uses TensorFlow's parser and validation protobuf's,
so records on which they may differ are invalid.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


class _Unusual(Exception):
    """The parsers may differ."""


def is_unambiguous(serialized: bytes, frame_level: bool) -> bool:
    """Return whether both parsers read a record in the same way, or both reject it.

    False for what no library writes: a feature given twice, a list in several parts, or fields that
    the format does not have, except after those that it has.
    """
    try:
        _check_record(memoryview(serialized), frame_level)
    except (_Unusual, IndexError):
        return False
    return True


def _check_record(record: memoryview, frame_level: bool):
    context, frame_lists = set(), set()
    for number, kind, value in _fields(record):
        if number == 1:
            _check_map(_delimited(kind, value), context, _check_feature)
        elif number == 2 and frame_level:
            _check_map(_delimited(kind, value), frame_lists, _check_frames)


def _check_map(message: memoryview, keys: set[bytes], check_value):
    """Check Features or FeatureLists, and add the keys to `keys`."""
    for number, kind, entry in _fields(message):
        if number != 1:
            raise _Unusual
        parts = list(_fields(_delimited(kind, entry)))
        if [number for number, _, _ in parts] != [1, 2]:
            raise _Unusual
        key, value = (_delimited(kind, content) for _, kind, content in parts)
        if bytes(key) in keys:
            raise _Unusual
        keys.add(bytes(key))
        check_value(value)


def _check_frames(message: memoryview):
    for number, kind, frame in _fields(message):
        if number != 1:
            raise _Unusual
        _check_feature(_delimited(kind, frame))


def _check_feature(message: memoryview):
    fields = list(_fields(message))
    for number, kind, values in fields[:1]:
        if number not in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
            raise _Unusual
        _check_list(number, _delimited(kind, values))
    if any(number <= _INT64_LIST for number, _, _ in fields[1:]):
        raise _Unusual


def _check_list(list_type: int, message: memoryview):
    one_value = {_BYTES_LIST: _DELIMITED, _FLOAT_LIST: _FIXED32, _INT64_LIST: _VARINT}[list_type]
    kinds = [kind if number == 1 else None for number, kind, _ in _fields(message)]
    packed = list_type != _BYTES_LIST and kinds[:1] == [_DELIMITED]
    if packed and all(kind is None for kind in kinds[1:]):
        return
    if any(kind != one_value for kind in kinds):
        raise _Unusual


def _delimited(kind: int, value: memoryview) -> memoryview:
    if kind != _DELIMITED:
        raise _Unusual
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield number, wire type and content of each field."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, end = _varint(message, position)
        elif kind == _DELIMITED:
            length, position = _varint(message, position)
            end = position + length
        elif kind in (_FIXED32, _FIXED64):
            end = position + (4 if kind == _FIXED32 else 8)
        else:
            raise _Unusual  # a group
        if end > len(message) or not 0 < number < 1 << 29:
            raise _Unusual
        yield number, kind, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            if shift and not byte:
                raise _Unusual  # longer than necessary
            return value, position
    raise _Unusual
