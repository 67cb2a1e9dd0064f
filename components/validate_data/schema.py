"""A schema of the records, in the text format of tensorflow-metadata's Schema.

Inferred from a first run, it is a text file to read, edit and commit; later runs are held to it.
Fields that cannot be enforced here are refused, not ignored.

Source: https://github.com/tensorflow/metadata/blob/master/tensorflow_metadata/proto/v0/schema.proto
"""

from collections.abc import Iterator

import numpy as np
from google.protobuf import text_format

from components.validate_data.checks import HIGHEST, LOWEST
from components.validate_data.observed import ID, Observed
from trainer.common.errors import UserError
from trainer.common.messages import declare
from trainer.data.records import LABELS_KEY, MAX_FRAMES, RecordFormat

PROTO = declare(
    "proto2",
    {
        "Schema": ["repeated Feature feature = 1"],
        "Feature": [
            "optional string name = 1",
            "optional FeatureType type = 6",
            "optional Presence presence = 14",
            "optional Shape shape = 23",
            "optional ValueCount value_count = 5",
            "optional IntDomain int_domain = 9",
            "optional FloatDomain float_domain = 10",
            "repeated string not_in_environment = 19",
        ],
        "Presence": ["optional double min_fraction = 1", "optional int64 min_count = 2"],
        "Shape": ["repeated Dim dim = 2"],
        "Dim": ["optional int64 size = 1", "optional string name = 2"],
        "ValueCount": ["optional int64 min = 1", "optional int64 max = 2"],
        "IntDomain": [
            "optional string name = 1",
            "optional int64 min = 3",
            "optional int64 max = 4",
            "optional bool is_categorical = 5",
        ],
        "FloatDomain": [
            "optional string name = 1",
            "optional float min = 3",
            "optional float max = 4",
            # Of a video without errors both hold.
            "optional bool disallow_nan = 5",
            "optional bool disallow_inf = 6",
        ],
    },
    {"FeatureType": ["TYPE_UNKNOWN = 0", "BYTES = 1", "INT = 2", "FLOAT = 3", "STRUCT = 4"]},
)
_TYPES = {"TYPE_UNKNOWN": 0, "BYTES": 1, "INT": 2, "FLOAT": 3, "STRUCT": 4}
_TYPE_NAMES = {number: name for name, number in _TYPES.items()}


def infer(observed: dict[str, Observed], videos: int, record_format: RecordFormat):
    """The schema that a split of so many good videos fits, as a PROTO.Schema."""
    schema = PROTO.Schema()
    for name, one in observed.items():
        feature = schema.feature.add(name=name, type=_TYPES[one.type])
        if videos and one.videos == videos:
            feature.presence.min_fraction = 1
        elif one.videos:
            feature.presence.min_count = 1
        if name == LABELS_KEY:
            feature.value_count.min = 1
            feature.int_domain.min, feature.int_domain.max = 0, record_format.num_classes - 1
            feature.int_domain.is_categorical = True
        elif one.type == "FLOAT" and one.num_values is not None:
            feature.shape.dim.add(size=len(one.num_values) - 1)
            feature.float_domain.min, feature.float_domain.max = _float_range(one)
            feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
        elif one.num_values is not None:
            most = len(one.num_values) - 1
            feature.value_count.min = 1
            feature.value_count.max = most if name == ID else max(MAX_FRAMES, most)
    return schema


def _float_range(one: Observed) -> tuple[float, float]:
    """The quantiser's range, or, where values lie outside, that of the values."""
    return min(LOWEST, one.low), max(HIGHEST, one.high)


def parse(text: str, path: str):
    """A PROTO.Schema from its text, which was read from `path`.

    Raises:
        UserError: it is none, or holds something that cannot be enforced.
    """
    try:
        return text_format.Parse(text, PROTO.Schema())
    except text_format.ParseError as error:
        reason = str(error).replace("ours.", "")
        raise UserError(
            f"--schema must be a Schema of tensorflow-metadata in its text format, with features' "
            f"name, type, presence, shape, value_count, int_domain, float_domain and "
            f"not_in_environment; in {path}, at line:column {reason}"
        ) from None


def to_text(schema) -> str:
    """A PROTO.Schema as text."""
    return text_format.MessageToString(schema)


def enforce(schema, split: str, observed: dict[str, Observed], videos: int) -> Iterator[str]:
    """What of a split of so many good videos does not fit the schema, in words.

    The name of the split is its environment: a feature that is `not_in_environment: "test"` is not
    expected in the split "test".
    """
    if not videos:
        return
    for feature in schema.feature:
        if split in feature.not_in_environment:
            continue
        one = observed.get(feature.name, Observed(_TYPE_NAMES[feature.type], 0))
        for reason in _check(feature, one, videos):
            yield f"{feature.name!r} {reason}"
    known = {feature.name for feature in schema.feature}
    for name in sorted(observed.keys() - known):
        if observed[name].videos:
            yield f"{name!r} is in {observed[name].videos} videos, but not in the schema"


def _check(feature, one: Observed, videos: int) -> Iterator[str]:
    presence = feature.presence
    if one.videos / videos < presence.min_fraction or one.videos < presence.min_count:
        expected = (
            f"{presence.min_fraction:.4g} of the videos"
            if presence.min_fraction
            else f"{presence.min_count} videos"
        )
        yield f"must be in at least {expected}, but is in {one.videos} of {videos}"
    if not one.videos:
        return
    if feature.HasField("type") and one.type != _TYPE_NAMES[feature.type]:
        yield f"must be of type {_TYPE_NAMES[feature.type]}, but is {one.type}"
    if one.num_values is not None:
        yield from _check_number(feature, one)
    if one.low is not None:
        yield from _check_range(feature.int_domain, one)
        yield from _check_range(feature.float_domain, one)


def _check_number(feature, one: Observed) -> Iterator[str]:
    least, most = _least(one), _most(one)
    if feature.HasField("shape"):
        size = int(np.prod([dim.size for dim in feature.shape.dim]))
        if (least, most) != (size, size):
            yield f"must have {size} values a video, but has {_range(least, most)}"
    count = feature.value_count
    if count.HasField("min") and least < count.min:
        yield f"must have at least {count.min} values a video, but one has {least}"
    if count.HasField("max") and most > count.max:
        yield f"must have at most {count.max} values a video, but one has {most}"


def _check_range(domain, one: Observed) -> Iterator[str]:
    if domain.HasField("min") and one.low < domain.min:
        yield f"must be at least {domain.min:g}, but goes down to {one.low:g}"
    if domain.HasField("max") and one.high > domain.max:
        yield f"must be at most {domain.max:g}, but goes up to {one.high:g}"


def _least(one: Observed) -> int:
    return int(np.flatnonzero(one.num_values)[0])


def _most(one: Observed) -> int:
    return int(np.flatnonzero(one.num_values)[-1])


def _range(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"
