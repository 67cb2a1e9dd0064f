"""Layouts of video-level records, which let numpy read many records at once.

The records of a data set have few layouts: in all records of one layout the same bytes, which are
tags, names and lengths, stand around the values. A layout that was seen once is kept as a regular
expression that matches those bytes and captures the values. What a record of that layout holds then
depends on the captured bytes alone.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from trainer.data import wire
from trainer.data.examples import inspect
from trainer.data.records import ID_KEYS, LABELS_KEY, RecordFormat

# How often to learn a layout, or to try to. The published shards have about a hundred.
MAX_ATTEMPTS = 1000

# Tags of what holds the values of a tf.train.Feature: bytes_list, float_list, int64_list; and of
# the values in each.
_BYTES, _FLOATS, _INTS, _VALUES = 0x0A, 0x12, 0x1A, 0x0A


class Layout(NamedTuple):
    """One layout.

    Attributes:
        match: Of a record, a match of the regular expression, or None.
        groups: Which groups of the match are the id, the labels and the features.
        extra: What else is in the record: name -> type.
    """

    match: Callable[[bytes], re.Match | None]
    groups: tuple[int, ...]
    extra: dict[str, str]


class Layouts:
    """The layouts of the good video-level records of one format, as far as they were seen."""

    def __init__(self, record_format: RecordFormat):
        self._record_format = record_format
        self._of_length: dict[int, list[Layout]] = {}  # by the length of the record
        self._attempts = 0

    def take_apart(self, record: bytes) -> tuple | None:
        """The bytes of a record's id, of its labels and of each feature, and what else is in it.

        What can still be wrong with it are labels out of range, NaN and infinity. None: its layout
        is not known and cannot be learnt, or something else is wrong.
        """
        for layout in self._of_length.get(len(record), ()):
            if match := layout.match(record):
                return *match.group(*layout.groups), layout.extra
        if self._attempts == MAX_ATTEMPTS:
            return None
        self._attempts += 1
        layout = learn(record, self._record_format)
        if layout is None:
            return None
        self._of_length.setdefault(len(record), []).append(layout)
        return *layout.match(record).group(*layout.groups), layout.extra


def learn(record: bytes, record_format: RecordFormat) -> Layout | None:
    """The layout of a record; None: it has none that can be used, or the record is not good."""
    video, problems = inspect(record, record_format)
    if problems:
        return None
    features, _ = wire.decode(record)
    id_key = next(key for key in ID_KEYS if key in features)
    wanted = [(id_key, _BYTES), (LABELS_KEY, _INTS)]
    wanted += [(feature.name, _FLOATS) for feature in record_format.features]
    spans = [_span(record, features.get(name, b""), tag) for name, tag in wanted]
    if len(video.labels) == 0:
        spans[1] = (0, 0)
    if None in spans:
        return None
    patterns = {(start, stop): b"(.{%d})" % (stop - start) for start, stop in spans}
    if len(video.labels):
        patterns[spans[1]] = b"(%s)" % _numbers(spans[1])
    for name in video.extra:
        patterns |= _of_any_value(record, features.get(name, b""))
    groups = tuple(sorted(spans).index(span) + 1 for span in spans)
    pattern = re.compile(_around(patterns, record), re.DOTALL)
    return Layout(pattern.fullmatch, groups, video.extra)


def _of_any_value(record: bytes, feature: bytes) -> dict[tuple[int, int], bytes]:
    """The pattern of a feature that is not looked at, by its span; {}: all its bytes must match."""
    if span := _span(record, feature, _BYTES) or _span(record, feature, _FLOATS):
        return {span: b".{%d}" % (span[1] - span[0])}
    span = _span(record, feature, _INTS)
    # No number of so few bytes is too large, which one of more than 9 can be.
    return {span: _numbers(span)} if span and span[1] - span[0] <= 9 else {}


def _numbers(span: tuple[int, int]) -> bytes:
    """The pattern of some integers, the last of which ends with the span."""
    return rb".{%d}[\0-\x7f]" % (span[1] - span[0] - 1)


def _around(patterns: dict[tuple[int, int], bytes], record: bytes) -> bytes:
    """The pattern of a record, from those of some spans of it; the rest stands for itself."""
    whole, end = b"", 0
    for (start, stop), pattern in sorted(patterns.items()):
        whole += re.escape(record[end:start]) + pattern
        end = stop
    return whole + re.escape(record[end:])


def _span(record: bytes, feature: bytes, tag: int) -> tuple[int, int] | None:
    """From where to where in a record the values of a serialised feature stand."""
    offset = _offset(feature, tag)
    if offset is None or record.count(feature) != 1:
        return None
    start = record.index(feature)
    return start + offset, start + len(feature)


def _offset(feature: bytes, tag: int) -> int | None:
    """Where in a serialised feature its values start; None: it holds more than one list of them."""
    position = 0
    for expected in (tag, _VALUES):
        if feature[position : position + 1] != bytes([expected]):
            return None
        length, position = _varint(feature, position + 1)
        if position + length != len(feature):
            return None
    return position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where it ends."""
    number = shift = 0
    while True:
        number |= (data[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if data[position - 1] < 0x80:
            return number, position
