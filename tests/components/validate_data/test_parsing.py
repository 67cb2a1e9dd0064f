import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.validate_data import parsing
from components.validate_data.parsing import Batch, Parser, read_varints
from trainer.data.examples import encode_example, encode_sequence_example, inspect
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import read_records

VIDEO = RecordFormat((Feature("rgb", 2),), num_classes=300)
FRAME = RecordFormat((Feature("rgb", 2),), frame_features=True, num_classes=10)


def record(video_id=b"a", labels=(1,), rgb=(0.5, 1.0), **extra) -> bytes:
    return encode_example({"id": video_id, "labels": list(labels), "rgb": list(rgb), **extra})


def parse(parser: Parser, *records: bytes):
    numbers = range(1, len(records) + 1)
    return parser.parse(numbers, [parser.look_at(one) for one in records])


@pytest.fixture
def inspected(monkeypatch):
    """The records that the parser reads one by one; layouts are learnt elsewhere."""
    inspected = []
    monkeypatch.setattr(
        parsing, "inspect", lambda *args: inspected.append(args[0]) or inspect(*args)
    )
    return inspected


def test_good_records_at_once(inspected):
    batch, bad = parse(
        Parser(VIDEO),
        record(b"a", [1, 299], [0.5, 1]),
        record(b"bcd", [], [1.5, 2]),
        record(b"e", [7], start=[3.0]),
    )
    assert (inspected, bad) == ([], [])
    assert (list(batch.numbers), batch.ids) == ([1, 2, 3], ["a", "bcd", "e"])
    assert (batch.labels.tolist(), batch.owners.tolist()) == ([1, 299, 7], [0, 0, 2])
    assert batch.features["rgb"].tolist() == [[0.5, 1], [1.5, 2], [0.5, 1]]
    assert list(batch.extra) == [{}, {}, {"start": "float"}]


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"labels": [300]}, "label_out_of_range"),
        ({"labels": [1 << 40]}, "label_out_of_range"),
        ({"labels": [-1]}, "label_out_of_range"),
        ({"rgb": [np.nan, 0]}, "not_finite"),
        ({"rgb": [0, -np.inf]}, "not_finite"),
        ({"rgb": [0.5]}, "wrong_size"),
        ({"video_id": b""}, "no_id"),
    ],
)
def test_a_bad_record_among_good_ones(inspected, changes, kind):
    parser = Parser(VIDEO)
    # Good records with the lengths that the bad one may have, so that its layout is known.
    for labels in ([1], [299], [1] * 6, [1] * 10):
        parse(parser, record(labels=labels))
    batch, (bad,) = parse(parser, record(b"x"), record(**changes), record(b"y"))
    assert len(inspected) == 3
    assert (list(batch.numbers), batch.ids) == ([1, 3], ["x", "y"])
    assert bad.number == 2
    assert [problem.kind for problem in bad.problems] == [kind]


def test_a_sum_that_is_too_large_is_no_fault():
    batch, bad = parse(Parser(VIDEO), record(rgb=[3e38, 3e38]))
    assert bad == []
    assert batch.features["rgb"].tolist() == [pytest.approx([3e38, 3e38])]


def test_ids_in_any_encoding():
    odd = [b"\xff\x00", "Ü".encode(), b"a\n"]
    batch, _ = parse(Parser(VIDEO), *map(record, odd))
    assert batch.ids == [inspect(record(one), VIDEO)[0].id for one in odd]


def test_nothing_good():
    batch, bad = parse(Parser(VIDEO), record(rgb=[1]))
    assert batch is None
    assert len(bad) == 1
    assert parse(Parser(VIDEO)) == (None, [])


def test_frame_level_records():
    frames = np.arange(6, dtype=np.uint8).reshape(3, 2)
    one, two = (
        encode_sequence_example({"id": b"a", "labels": [number]}, {"rgb": frames[:number]})
        for number in (1, 3)
    )
    batch, (bad,) = parse(Parser(FRAME), one, record(), two)
    assert bad.number == 2
    assert batch.features["rgb"].tolist() == [[0, 1], [0, 1], [2, 3], [4, 5]]
    assert batch.frames["rgb"].tolist() == [1, 3]
    assert (batch.labels.tolist(), batch.owners.tolist()) == ([1, 3], [0, 1])


def test_a_label_that_comes_twice_is_one():
    batch, _ = parse(Parser(VIDEO), record(labels=[3, 1, 3]), record(labels=[3]))
    labels, owners = batch.distinct_labels()
    assert (labels.tolist(), owners.tolist()) == ([1, 3, 3], [0, 0, 1])


@given(st.lists(st.lists(st.integers(0, (1 << 28) - 1))))
def test_packed_numbers(rows):
    def packed(number: int) -> bytes:
        low, high = number & 0x7F, number >> 7
        return bytes([low | 0x80]) + packed(high) if high else bytes([low])

    numbers, row_of = read_varints([b"".join(map(packed, row)) for row in rows])
    assert numbers.tolist() == [number for row in rows for number in row]
    assert row_of.tolist() == [i for i, row in enumerate(rows) for _ in row]


def test_longer_numbers_are_left_out():
    numbers, _ = read_varints([b"\x01" + b"\x80" * 4 + b"\x01\x02", b"\xff" * 30 + b"\x7f"])
    assert numbers.tolist() == [1, -1, 2, -1]


@pytest.mark.parametrize("names", [("mean_rgb", "mean_audio"), ("mean_audio",)])
def test_damaged_records_are_read_as_one_by_one(real_data, names):
    """Every record, damaged or not, is to the parser what it is to `inspect`, to the last bit."""
    sizes = {"mean_rgb": 1024, "mean_audio": 128}
    record_format = RecordFormat(tuple(Feature(name, sizes[name]) for name in names))
    records = list(read_records(str(real_data / "yt8m2018/video/validate0000.tfrecord")))
    parser = Parser(record_format)
    parse(parser, *records)
    for seed in range(1000):
        rng = random.Random(seed)
        data = bytearray(rng.choice(records))
        # Most of a record is values; its structure is at both ends.
        for place in rng.sample([*range(60), *range(-600, 0)], rng.choice([1, 1, 2, 5])):
            data[place] ^= 1 << rng.randrange(8)
        batch, bad = parse(parser, bytes(data))
        video, problems = inspect(bytes(data), record_format)
        if problems:
            assert (batch, bad) == (None, [(1, video.id, problems)])
        else:
            assert_holds(batch, video)


def assert_holds(batch: Batch, video) -> None:
    assert (list(batch.ids), list(batch.extra)) == ([video.id], [video.extra])
    assert batch.labels.tolist() == video.labels.tolist()
    for name, values in video.features.items():
        assert batch.features[name].tobytes() == values.tobytes()
