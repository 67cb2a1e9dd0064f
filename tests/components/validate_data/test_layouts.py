import numpy as np
import pytest

from components.validate_data import layouts
from components.validate_data.layouts import Layouts
from trainer.data import wire
from trainer.data.examples import encode_example
from trainer.data.records import Feature, RecordFormat

FORMAT = RecordFormat((Feature("rgb", 2), Feature("audio", 1)), num_classes=1000)


def record(**changes) -> bytes:
    return encode_example({"id": b"a", "labels": [1], "rgb": [0.5, 1.0], "audio": [0.0]} | changes)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.fixture
def learnt(monkeypatch):
    """Layouts, and the records that they learnt from."""
    learnt = []
    learn = layouts.learn
    monkeypatch.setattr(layouts, "learn", lambda *args: learnt.append(args[0]) or learn(*args))
    return learnt


def test_a_layout_is_learnt_once(learnt):
    known = Layouts(FORMAT)
    first, second = record(), record(id=b"b", labels=[7], rgb=[-3.0, np.nan], audio=[9.0])
    assert known.take_apart(first) == (b"a", b"\x01", floats(0.5, 1), floats(0), {})
    assert known.take_apart(second) == (b"b", b"\x07", floats(-3, np.nan), floats(9), {})
    assert learnt == [first]


def test_another_length_or_order_is_another_layout(learnt):
    known = Layouts(FORMAT)
    other_order = wire.encode({"audio": [5.0], "rgb": [1.0, 2.0], "labels": [2], "id": b"c"}, {})
    records = [record(), record(labels=[300, 2]), other_order]
    rows = [known.take_apart(one) for one in [*records, *records]]
    assert learnt == records
    assert rows[1] == rows[4] == (b"a", b"\xac\x02\x02", floats(0.5, 1), floats(0), {})
    assert rows[2] == rows[5] == (b"c", b"\x02", floats(1, 2), floats(5), {})


def test_records_without_labels():
    known = Layouts(FORMAT)
    bare = encode_example({"video_id": b"abc", "rgb": [0.5, 1.0], "audio": [0.0]})
    for one in (bare, bare, record(labels=[])):
        assert known.take_apart(one)[1] == b""


def test_what_else_is_in_a_record_may_differ(learnt):
    known = Layouts(FORMAT)
    for number in range(3):
        one = record(start=[number + 1.0], note=b"%d" % number, when=[1 << 30 | number])
        extra = {"start": "float", "note": "bytes", "when": "int64"}
        assert known.take_apart(one) == (b"a", b"\x01", floats(0.5, 1), floats(0), extra)
    assert len(learnt) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"rgb": [1.0]},
        {"id": []},
        {"labels": [1000]},
        {"labels": [0.5]},
        {"audio": [np.inf]},
    ],
)
def test_nothing_is_learnt_from_a_bad_record(changes):
    assert Layouts(FORMAT).take_apart(record(**changes)) is None


def test_values_that_do_not_stand_in_a_row():
    # The second label in a field of its own, which is what writers without packing do.
    unpacked = b"\x1a\x04\x08\x01\x08\x02"
    packed = wire.encode({"labels": [1, 2]}, {})
    assert b"\x1a\x04\x0a\x02\x01\x02" in packed
    data = record(labels=[1, 2]).replace(b"\x1a\x04\x0a\x02\x01\x02", unpacked)
    assert Layouts(FORMAT).take_apart(data) is None


def test_values_that_cannot_be_told_apart():
    same = RecordFormat((Feature("one", 2), Feature("two", 2)))
    data = encode_example({"id": b"a", "labels": [1], "one": [0.5, 1.0], "two": [0.5, 1.0]})
    assert Layouts(same).take_apart(data) is None


def test_data_without_layouts_is_given_up(learnt, monkeypatch):
    monkeypatch.setattr(layouts, "MAX_ATTEMPTS", 3)
    known = Layouts(FORMAT)
    for number in range(9):
        known.take_apart(record(many=[number] * 10))
    assert len(learnt) == 3
