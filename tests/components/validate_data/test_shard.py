import gzip

import numpy as np
import pytest

from components.validate_data.shard import Shard, keep_freed_memory, scan
from components.validate_data.statistics import SplitStatistics
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import frame, write_records

VIDEO = RecordFormat((Feature("rgb", 2),), num_classes=10)
FRAME = RecordFormat((Feature("rgb", 2),), frame_features=True, num_classes=10)


def video(**changes) -> bytes:
    return encode_example({"id": b"a", "labels": [1], "rgb": [0.5, 1.0]} | changes)


def scan_file(path, record_format=VIDEO):
    statistics = SplitStatistics.empty(record_format)
    ids = scan(Shard("train", str(path)), record_format, statistics)
    return statistics, ids


@pytest.fixture
def scan_bytes(tmp_path):
    def scan_bytes(data: bytes, record_format=VIDEO):
        path = tmp_path / "shard"
        path.write_bytes(data)
        return scan_file(path, record_format)

    return scan_bytes


def kinds(statistics) -> dict[str, int]:
    return {kind: finding.count for (kind, _), finding in statistics.findings.found.items()}


def test_good_records(scan_bytes):
    data = [video(id=b"a"), video(id=b"bcd", labels=[2, 3])]
    statistics, ids = scan_bytes(b"".join(map(frame, data)))
    assert kinds(statistics) == {}
    assert (statistics.num_records, statistics.num_videos) == (2, 2)
    assert statistics.num_bytes == sum(map(len, data))
    ((_, records, num_bytes, _),) = statistics.files
    assert (records, num_bytes) == (2, statistics.num_bytes)
    assert statistics.label_counts.tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert (ids.ids.tolist(), ids.numbers.tolist()) == ([b"a", b"bcd"], [1, 2])


def test_frame_level_records(scan_bytes):
    rgb = np.arange(6, dtype=np.uint8).reshape(3, 2)
    record = encode_sequence_example({"id": b"a", "labels": [1]}, {"rgb": rgb})
    statistics, _ = scan_bytes(frame(record) * 2, FRAME)
    assert kinds(statistics) == {}
    assert statistics.features["rgb"].moments.count == 6


@pytest.mark.parametrize(
    "damaged, kind",
    [
        (b"", "empty_file"),
        (b"Index,Name\n", "not_tfrecord"),
        (gzip.compress(frame(video())), "compressed"),
        (frame(video())[:-1], "truncated"),
        (frame(video())[:-1] + b"?", "crc"),
        (frame(video()) + b"?" * 20, "header"),
        (frame(b"junk"), "not_an_example"),
        (frame(video(id=[])), "no_id"),
        (frame(video(rgb=[1.0])), "wrong_size"),
        (frame(video(rgb=[1, 2])), "wrong_type"),
        (frame(video(rgb=[1.0, np.nan])), "not_finite"),
        (frame(video(labels=[10])), "label_out_of_range"),
        (frame(encode_example({"id": b"a", "labels": [1]})), "missing_feature"),
    ],
)
def test_each_kind_of_damage_is_found(scan_bytes, damaged, kind):
    statistics, _ = scan_bytes(damaged)
    assert kinds(statistics) == {kind: 1}


def test_a_missing_file_is_a_finding(tmp_path):
    statistics, _ = scan_file(tmp_path / "gone")
    assert kinds(statistics) == {"unreadable": 1}


def test_the_records_around_a_bad_one_are_read(scan_bytes):
    bad = bytearray(frame(video(id=b"b")))
    bad[-1] ^= 1
    data = frame(video(id=b"a")) + bytes(bad) + frame(video(id=b"c", labels=[99]))
    statistics, ids = scan_bytes(data + frame(video(id=b"d")))
    assert kinds(statistics) == {"crc": 1, "label_out_of_range": 1}
    assert (statistics.num_records, statistics.num_videos) == (4, 2)
    assert ids.ids.tolist() == [b"a", b"c", b"d"]  # a bad video leaks as a good one does
    example = statistics.findings.found["label_out_of_range", "train"].examples[0]
    assert (example.record, example.id) == (3, "c")


def test_batches_change_nothing(scan_bytes, monkeypatch):
    rng = np.random.default_rng(0)
    records = [
        frame(video(id=f"v{i}", labels=[i % 10], rgb=rng.uniform(-1, 1, 2))) for i in range(20)
    ]
    whole, _ = scan_bytes(b"".join(records))
    monkeypatch.setattr("components.validate_data.shard.BATCH_BYTES", 100)
    parts, _ = scan_bytes(b"".join(records))
    assert np.array_equal(whole.label_counts, parts.label_counts)
    assert whole.features["rgb"].moments.std == pytest.approx(parts.features["rgb"].moments.std)


def test_the_digest_is_of_the_records_alone(tmp_path):
    def digest(name: str, *records: bytes) -> int:
        write_records(str(tmp_path / name), records)
        return scan_file(tmp_path / name)[0].digest

    assert digest("one", video(), video(id=b"b")) == digest("two", video(), video(id=b"b"))
    assert digest("one", video(), video(id=b"b")) != digest("one", video(id=b"b"), video())
    assert digest("one", video()) != digest("one", video(labels=[2]))


def test_keeping_memory_does_no_harm():
    keep_freed_memory()
