"""What a record must hold to be trained on: read, checked and written without TensorFlow."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from trainer.data import wire
from trainer.data.records import ID_KEYS, LABELS_KEY, Feature, RecordFormat
from trainer.data.tfrecord import BadRecord, scan_records


@dataclass(frozen=True)
class Video:
    """One record.

    Attributes:
        id: Its id; "" where it has none.
        labels: Class numbers, int64 [labels]; none where the record has no labels.
        features: Name -> vector, float32 [size], or frames, uint8 [frames, size]; not writable.
        extra: What else is in the record: name -> "bytes", "int64", "float", "frames" or "nothing".
    """

    id: str
    labels: np.ndarray
    features: dict[str, np.ndarray]
    extra: dict[str, str] = field(default_factory=dict)


class Problem(NamedTuple):
    """Something that keeps a record from being trained on."""

    kind: str  # in a word
    reason: str  # in words: what was expected, and what was found


def parse(serialized: bytes, record_format: RecordFormat) -> Video:
    """The video in a record.

    Raises:
        ValueError: the record cannot be trained on, for the reason that the message gives.
    """
    video, problems = inspect(serialized, record_format)
    if problems:
        raise ValueError(problems[0].reason)
    return video


def first_error(paths: Iterable[str], record_format: RecordFormat) -> str | None:
    """File, number and reason of the first record that cannot be trained on; None: all can."""
    errors: list[str] = []
    for path in paths:
        for _ in good_records(path, record_format, errors.append):
            if errors:
                break
        if errors:
            return errors[0]
    return None


def good_records(
    path: str, record_format: RecordFormat, on_bad_record: Callable[[str], None]
) -> Iterator[bytes]:
    """The records of a file that can be trained on; of the others, the reason is called back."""
    for number, record in enumerate(scan_records(path), start=1):
        if isinstance(record, BadRecord):
            on_bad_record(str(record))
        elif problems := inspect(record, record_format)[1]:
            on_bad_record(f"{path}, record {number}: {problems[0].reason}.")
        else:
            yield record


def encode_example(features: Mapping[str, wire.Values]) -> bytes:
    """A serialised tf.Example.

    Args:
        features: Name -> a byte string, text, integer or float, or a list or array of them.
    """
    return wire.encode(features, {})


def encode_sequence_example(
    context: Mapping[str, wire.Values],
    feature_lists: Mapping[str, np.ndarray | Sequence[wire.Values]],
) -> bytes:
    """A serialised tf.SequenceExample.

    Args:
        context: As the features of `encode_example`.
        feature_lists: Name -> uint8 [frames, size], stored as a byte string a frame; or a list
            whose items are as the values of `encode_example`.
    """
    return wire.encode(context, feature_lists)


def inspect(serialized: bytes, record_format: RecordFormat) -> tuple[Video, list[Problem]]:
    """The video in a record, as far as it can be had, and all that is wrong with it.

    A vector with NaN or infinity in it is in the video; other features with a problem are not.
    """
    problems: list[Problem] = []
    try:
        context, frame_lists = wire.decode(serialized)
        video = Video(
            _id(context, problems),
            _labels(context, record_format.num_classes, problems),
            _features(context, frame_lists, record_format, problems),
            _extra(context, frame_lists, record_format),
        )
    except wire.DecodeError:
        kind = "SequenceExample" if record_format.frame_features else "Example"
        problem = Problem("not_an_example", f"expected a tf.{kind}, found other data")
        return Video("", np.empty(0, np.int64), {}), [problem]
    return video, problems


def _id(context: dict[str, bytes], problems: list[Problem]) -> str:
    key = next((key for key in ID_KEYS if key in context), None)
    if key is None:
        reason = f"no id: expected {' or '.join(map(repr, ID_KEYS))}, found {_names(context)}"
        problems.append(Problem("no_id", reason))
        return ""
    values = wire.values(context[key])
    if isinstance(values, list) and len(values) == 1 and values[0]:
        return values[0].decode("utf-8", "backslashreplace")
    reason = f"{key!r} must be one byte string that is not empty, found {_describe(values)}"
    problems.append(Problem("no_id", reason))
    return ""


def _labels(context: dict[str, bytes], num_classes: int, problems: list[Problem]) -> np.ndarray:
    labels = wire.values(context.get(LABELS_KEY, b""))
    if labels is None:
        return np.empty(0, np.int64)
    if not _is_array(labels, np.int64):
        reason = f"{LABELS_KEY!r} must be int64, found {_describe(labels)}"
        problems.append(Problem("wrong_type", reason))
        return np.empty(0, np.int64)
    outside = [label for label in labels.tolist() if not 0 <= label < num_classes]
    if outside:
        reason = f"label {outside[0]} is out of range: expected 0 to {num_classes - 1}"
        problems.append(Problem("label_out_of_range", reason))
    return labels


def _features(
    context: dict[str, bytes],
    frame_lists: dict[str, bytes],
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
    return features


def _missing(feature: Feature, context: dict, frame_lists: dict, frame_features: bool) -> Problem:
    level = "frame" if frame_features else "video"
    return Problem(
        "missing_feature",
        f"no {level}-level feature {feature.name!r}: found at video level {_names(context)}, "
        f"at frame level {_names(frame_lists)}",
    )


def _vector(serialized: bytes, feature: Feature, problems: list[Problem]) -> np.ndarray | None:
    vector = wire.values(serialized)
    if not _is_array(vector, np.float32):
        reason = f"{feature.name!r} must be {feature.size} floats, found {_describe(vector)}"
        problems.append(Problem("wrong_type", reason))
        return None
    if len(vector) != feature.size:
        reason = f"{feature.name!r} must be {feature.size} floats, found {len(vector)}"
        problems.append(Problem("wrong_size", reason))
        return None
    finite = np.isfinite(vector)
    if not finite.all():
        at = int(np.argmin(finite))
        reason = f"{feature.name!r} must be finite, found {vector[at]} at position {at}"
        problems.append(Problem("not_finite", reason))
    return vector


def _frames(serialized: bytes, feature: Feature, problems: list[Problem]) -> np.ndarray | None:
    frames = wire.frames(serialized)
    if len(frames) == 0:
        problems.append(Problem("no_frames", f"{feature.name!r} has no frames, expected some"))
        return None
    if isinstance(frames, np.ndarray) and frames.shape[1] == feature.size:
        return frames
    problems.append(_bad_frame(frames, feature))
    return None


def _bad_frame(frames: np.ndarray | list, feature: Feature) -> Problem:
    """What is wrong with the first frame that is not one byte string of the right length."""
    if isinstance(frames, np.ndarray):
        frames = [[frames[0].tobytes()]]
    for number, frame in enumerate(frames, start=1):
        expected = f"frame {number} of {feature.name!r} must be {feature.size} bytes"
        if not isinstance(frame, list) or len(frame) != 1:
            return Problem("wrong_type", f"{expected}, found {_describe(frame)}")
        if len(frame[0]) != feature.size:
            return Problem("wrong_size", f"{expected}, found {len(frame[0])}")
    raise AssertionError("all frames are as they should be")


def _extra(context: dict, frame_lists: dict, record_format: RecordFormat) -> dict[str, str]:
    """Name and type of what is in a record beside its id, its labels and the expected features."""
    expected = {*ID_KEYS, LABELS_KEY, *(feature.name for feature in record_format.features)}
    extra = {
        name: _type(wire.values(value)) for name, value in context.items() if name not in expected
    }
    return extra | {name: "frames" for name in frame_lists if name not in expected}


def _type(values: list[bytes] | np.ndarray | None) -> str:
    if isinstance(values, np.ndarray):
        return "float" if values.dtype == np.float32 else "int64"
    return "nothing" if values is None else "bytes"


def _is_array(values: list[bytes] | np.ndarray | None, dtype) -> bool:
    return isinstance(values, np.ndarray) and values.dtype == dtype


def _describe(values: list[bytes] | np.ndarray | None) -> str:
    if values is None:
        return "nothing"
    kind = "byte string" if isinstance(values, list) else f"{values.dtype} value"
    if isinstance(values, list) and values == [b""]:
        return "an empty one"
    return f"{len(values)} {kind}{'' if len(values) == 1 else 's'}"


def _names(present: dict) -> str:
    return ", ".join(map(repr, sorted(present))) or "nothing"
