"""Differential fuzzing of the two parsers of records: python -m benchmarks.fuzz --help.

Validation parses records with protobuf, training with TensorFlow. Mutated records must not pass
validation and then fail in training, or be read differently. Prints a count for each outcome.
"""

import functools
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import without_traceback
from trainer.data import examples
from trainer.data.records import Feature, RecordFormat

VIDEO = RecordFormat((Feature("rgb", 3), Feature("audio", 2)), num_classes=10)
FRAME = RecordFormat(VIDEO.features, frame_features=True, num_classes=10)


@dataclass(frozen=True)
class FuzzBenchmark:
    """Compare the parsers of validation and training on mutated records."""

    seconds: float = flag(60.0, "How long to mutate records.", "Benchmark")
    seed: int = flag(0, "Random seed of the mutations.", "Benchmark")


def seed_records() -> list[tuple[bytes, RecordFormat]]:
    """Valid records of both levels, and some with unusual parts."""
    context = {"id": b"ab", "labels": [1, 9]}
    vectors = {"rgb": [0.5, 1.0, -2.0], "audio": [0.0, 0.25]}
    frames = {"rgb": np.arange(6, dtype=np.uint8).reshape(2, 3), "audio": np.ones([2, 2], np.uint8)}
    contexts = [
        context,
        context | {"video_id": b""},
        context | {"video_id": []},
        context | {"video_id": [3]},
        {"id": [], "video_id": b"xy", "labels": []},
        {"video_id": b"xy"},
    ]
    return [(examples.encode_example(each | vectors), VIDEO) for each in contexts] + [
        (examples.encode_sequence_example(each, frames), FRAME) for each in contexts
    ]


def mutate(record: bytes, rng: np.random.Generator) -> bytes:
    """Return a record with a few random changes, most of them to the structure of its fields."""
    data = bytearray(record)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 24))
        kind = rng.integers(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            data[at : at + length] = b""
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            other = int(rng.integers(len(data) + 1))
            data[at:at] = data[other : other + length]
        elif kind == 4:
            data = bytearray(_mutate_field(bytes(data), rng))
        else:
            data += record
    return bytes(data)


def _mutate_field(message: bytes, rng: np.random.Generator) -> bytes:
    """Drop, repeat, split, move or replace a field at a random depth, keeping lengths right."""
    fields = _split(message)
    if not fields:
        return message
    at = int(rng.integers(len(fields)))
    tag, content = fields[at]
    if content is not None and rng.random() < 0.7:
        fields[at] = tag, _mutate_field(content, rng)
    else:
        kind = rng.integers(6)
        if kind == 0:
            del fields[at]
        elif kind == 1:
            fields.insert(int(rng.integers(len(fields) + 1)), fields[at])
        elif kind == 2:
            fields.insert(int(rng.integers(len(fields) + 1)), fields.pop(at))
        elif kind == 3 and content is not None:
            cut = int(rng.integers(len(content) + 1))
            fields[at : at + 1] = [(tag, content[:cut]), (tag, content[cut:])]
        elif kind == 4:
            fields.insert(at, (b"\x78\x01", None))  # an unknown field
        else:
            fields[at] = bytes([int(rng.integers(1, 5)) << 3 | tag[0] & 7]), content
    return b"".join(
        tag if content is None else tag + _varint(len(content)) + content for tag, content in fields
    )


def _split(message: bytes) -> list[tuple[bytes, bytes | None]]:
    """Fields of a message, if it is one: the tag and content of each, or the whole and None."""
    fields, position = [], 0
    while position < len(message):
        start, kind = position, message[position] & 7
        position += 1
        if kind == 2 and position < len(message) and message[position] < 128:
            end = position + 1 + message[position]
            if end > len(message):
                return []
            fields.append((message[start:position], message[position + 1 : end]))
        elif kind in (0, 5):
            end = position + (1 if kind == 0 else 4)
            if end > len(message):
                return []
            fields.append((message[start:end], None))
        else:
            return []
        position = end
    return fields


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


@functools.cache
def _tensorflow_parser(record_format: RecordFormat):
    import tensorflow as tf

    from trainer.data import input_pipeline

    return tf.function(
        lambda records: input_pipeline.parse(records, record_format),
        input_signature=[tf.TensorSpec([None], tf.string)],
    ).get_concrete_function()


def compare(record: bytes, record_format: RecordFormat) -> str:
    """Return the outcome for a record: "both accept", "both reject" or a kind of disagreement."""
    import tensorflow as tf

    video, problems = examples.inspect(record, record_format)
    try:
        batch = _tensorflow_parser(record_format)(tf.constant([record]))
    except (tf.errors.OpError, UnicodeDecodeError):
        return "both reject" if problems else "only validation accepts"
    if not batch["id"].numpy()[0]:
        return "both reject" if problems else "only validation accepts"
    if problems:
        is_nan = [problem.kind for problem in problems] == ["not_finite"]
        return "both accept, not finite" if is_nan else "only training accepts"
    return "both accept" if _same(video, batch) else "read differently"


def _same(video: examples.Video, batch) -> bool:
    labels = batch["labels"].numpy()[0]
    features = batch["features"]
    parts = features if isinstance(features, tuple) else [features]
    read = np.concatenate([part.numpy()[0] for part in parts], axis=-1)
    expected = np.concatenate(list(video.features.values()), axis=-1)
    return (
        batch["id"].numpy()[0].decode("utf-8", "backslashreplace") == video.id
        and set(labels[labels >= 0]) == set(video.labels)
        and np.array_equal(read[: len(expected)], expected)
    )


def main(argv: list[str]):
    """Run `python -m benchmarks.fuzz`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config = parse(FuzzBenchmark, ["benchmarks.fuzz", *argv[1:]])
    console.set_up()
    rng = np.random.default_rng(config.seed)
    seeds, counts, until = seed_records(), Counter(), time.monotonic() + config.seconds
    while time.monotonic() < until:
        record, record_format = seeds[rng.integers(len(seeds))]
        record = mutate(record, rng)
        outcome = compare(record, record_format)
        counts[outcome] += 1
        if outcome in ("only validation accepts", "read differently") and counts[outcome] <= 5:
            print(outcome, "frame level" if record_format.frame_features else "video level", record)
    for outcome, count in counts.most_common():
        print(f"{outcome:24} {count:10,}")
    print(f"{'in all':24} {counts.total():10,}")
    if counts["only validation accepts"] or counts["read differently"]:
        raise SystemExit(1)


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
