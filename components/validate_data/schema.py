"""A schema of the records: tensorflow-metadata's Schema message in its text format.

The schema of a first run is a text file to review, edit and commit; later runs are validated
against it. A field that cannot be enforced is rejected, not ignored.
"""

from collections.abc import Iterator

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_metadata.proto.v0 import schema_pb2

from components.validate_data.observed import ID, ObservedFeature
from components.validate_data.video_checks import HIGHEST, LOWEST
from trainer.common.errors import UserError
from trainer.data.records import LABELS_KEY, MAX_FRAMES, RecordFormat

# The fields that `enforce` checks, by message.
SUPPORTED_FIELDS = {
    "Schema": {"feature"},
    "Feature": {
        "name",
        "type",
        "presence",
        "shape",
        "value_count",
        "int_domain",
        "float_domain",
        "not_in_environment",
    },
    "FeaturePresence": {"min_fraction", "min_count"},
    "FixedShape": {"dim"},
    "Dim": {"size", "name"},
    "ValueCount": {"min", "max"},
    "IntDomain": {"name", "min", "max", "is_categorical"},
    # A video with NaN or infinity is an error of its own.
    "FloatDomain": {"name", "min", "max", "disallow_nan", "disallow_inf"},
}


def infer(
    observed: dict[str, ObservedFeature], num_videos: int, record_format: RecordFormat
) -> schema_pb2.Schema:
    """Return the schema of a split with `num_videos` valid videos."""
    schema = schema_pb2.Schema()
    for name, values in observed.items():
        feature = schema.feature.add(name=name, type=values.type)
        if num_videos and values.num_videos == num_videos:
            feature.presence.min_fraction = 1
        elif values.num_videos:
            feature.presence.min_count = 1
        if name == LABELS_KEY:
            feature.value_count.min = 1
            feature.int_domain.min, feature.int_domain.max = 0, record_format.num_classes - 1
            feature.int_domain.is_categorical = True
        elif values.type == "FLOAT" and values.num_values is not None:
            feature.shape.dim.add(size=len(values.num_values) - 1)
            feature.float_domain.min = min(LOWEST, values.min)
            feature.float_domain.max = max(HIGHEST, values.max)
            feature.float_domain.disallow_nan = feature.float_domain.disallow_inf = True
        elif values.num_values is not None:
            max_count = len(values.num_values) - 1
            feature.value_count.min = 1
            feature.value_count.max = max_count if name == ID else max(MAX_FRAMES, max_count)
    return schema


def parse(text: str, path: str) -> schema_pb2.Schema:
    """Parse the text of the file `path`.

    Raises:
        UserError: The text is no schema, or has a field that cannot be enforced.
    """
    try:
        schema = text_format.Parse(text, schema_pb2.Schema())
    except text_format.ParseError as error:
        raise UserError(
            "--schema must be a tensorflow-metadata Schema in text format, e.g. the schema.pbtxt "
            f"of an earlier run; in {path}, at line:column {error}"
        ) from None
    if unsupported := next(_unsupported_fields(schema), None):
        message, field = unsupported
        raise UserError(
            f"--schema: {path} sets {field!r} of a {message}, which cannot be enforced; expected "
            f"only {', '.join(sorted(SUPPORTED_FIELDS[message]))}."
        )
    return schema


def _unsupported_fields(message: Message) -> Iterator[tuple[str, str]]:
    name = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        if field.name not in SUPPORTED_FIELDS[name]:
            yield name, field.name
        elif field.message_type:
            for item in value if field.is_repeated else [value]:
                yield from _unsupported_fields(item)


def enforce(
    schema: schema_pb2.Schema, split: str, observed: dict[str, ObservedFeature], num_videos: int
) -> Iterator[str]:
    """Describe each mismatch between the schema and a split with `num_videos` valid videos.

    The name of the split is its environment: a feature with `not_in_environment: "test"` is not
    expected in the split "test".
    """
    if not num_videos:
        return
    for feature in schema.feature:
        if split in feature.not_in_environment:
            continue
        missing = ObservedFeature(schema_pb2.FeatureType.Name(feature.type), 0)
        for reason in _check(feature, observed.get(feature.name, missing), num_videos):
            yield f"{feature.name!r} {reason}"
    known = {feature.name for feature in schema.feature}
    for name in sorted(observed.keys() - known):
        if observed[name].num_videos:
            yield f"{name!r} is in {observed[name].num_videos} videos, but not in the schema"


def _check(
    feature: schema_pb2.Feature, observed: ObservedFeature, num_videos: int
) -> Iterator[str]:
    presence, found = feature.presence, observed.num_videos
    if found / num_videos < presence.min_fraction or found < presence.min_count:
        expected = (
            f"{presence.min_fraction:.4g} of the videos"
            if presence.min_fraction
            else f"{presence.min_count} videos"
        )
        yield f"must be in at least {expected}, but is in {found} of {num_videos}"
    if not found:
        return
    expected_type = schema_pb2.FeatureType.Name(feature.type)
    if feature.HasField("type") and observed.type != expected_type:
        yield f"must be of type {expected_type}, but is {observed.type}"
    if observed.num_values is not None:
        yield from _check_value_count(feature, observed.num_values)
    if observed.min is not None:
        yield from _check_domain(feature.int_domain, observed)
        yield from _check_domain(feature.float_domain, observed)


def _check_value_count(feature: schema_pb2.Feature, num_values: np.ndarray) -> Iterator[str]:
    low, high = (int(count) for count in np.flatnonzero(num_values)[[0, -1]])
    if feature.HasField("shape"):
        size = int(np.prod([dim.size for dim in feature.shape.dim]))
        if (low, high) != (size, size):
            found = str(low) if low == high else f"{low} to {high}"
            yield f"must have {size} values per video, but has {found}"
    count = feature.value_count
    if count.HasField("min") and low < count.min:
        yield f"must have at least {count.min} values per video, but one video has {low}"
    if count.HasField("max") and high > count.max:
        yield f"must have at most {count.max} values per video, but one video has {high}"


def _check_domain(domain, observed: ObservedFeature) -> Iterator[str]:
    if domain.HasField("min") and observed.min < domain.min:
        yield f"must be at least {domain.min:g}, but its min is {observed.min:g}"
    if domain.HasField("max") and observed.max > domain.max:
        yield f"must be at most {domain.max:g}, but its max is {observed.max:g}"
