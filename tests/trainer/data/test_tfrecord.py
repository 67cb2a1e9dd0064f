import gzip
import pickle
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.common.errors import UserError
from trainer.data.tfrecord import (
    BadRecord,
    frame,
    masked_crc,
    read_records,
    scan_records,
    write_records,
)


@pytest.fixture
def shard(tmp_path):
    """A file with three records: 11, 12 and 13 bytes, so 27, 28 and 29 with lengths and CRCs."""
    path = tmp_path / "shard.tfrecord"
    write_records(str(path), [b"a" * 11, b"b" * 12, b"c" * 13])
    return path


def damage(path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_what_is_written_is_read(tmp_path):
    path = str(tmp_path / "new" / "shard.tfrecord")
    records = [b"", b"one", bytes(3_000_000), b"four"]
    write_records(path, records)
    assert list(read_records(path)) == records


@given(st.binary(max_size=100))
def test_crc_is_masked_as_in_the_format(data):
    # The masking undone gives the plain CRC32C, here worked out bit by bit.
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    rotated = (masked_crc(data) - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated << 15 | rotated >> 17) & 0xFFFFFFFF == crc ^ 0xFFFFFFFF


def test_tensorflow_reads_what_is_written_and_the_other_way_round(tmp_path):
    import tensorflow as tf

    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    records = [b"one", b"", b"three" * 1000]
    write_records(ours, records)
    with tf.io.TFRecordWriter(theirs) as writer:
        for record in records:
            writer.write(record)
    assert list(tf.data.TFRecordDataset(ours).as_numpy_iterator()) == records
    assert list(read_records(theirs)) == records


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "empty").touch()
    assert list(read_records(str(tmp_path / "empty"))) == []


@pytest.mark.parametrize(
    "length, record, reason",
    [
        (12 + 11 + 3, 1, "truncated: expected 15 bytes of data and CRC, found 14"),
        (27 + 12, 2, "truncated: expected 16 bytes of data and CRC, found 0"),
        (27 + 28 + 5, 3, "truncated: expected a header of 12 bytes, found 5"),
        (4, 1, "truncated: expected a header of 12 bytes, found 4"),
    ],
)
def test_a_truncated_file_is_named(shard, length, record, reason):
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(BadRecord) as error:
        list(read_records(str(shard)))
    assert str(error.value) == f"{shard}, record {record}: {reason}."
    assert error.value.kind == "truncated"


def test_damaged_data_costs_one_record(shard):
    damage(shard, 27 + 12)  # the second record's first byte
    first, second, third = scan_records(str(shard))
    assert (first, third) == (b"a" * 11, b"c" * 13)
    assert str(second) == f"{shard}, record 2: its 12 bytes of data do not match their CRC."
    assert second.kind == "crc"
    with pytest.raises(BadRecord, match="record 2"):
        list(read_records(str(shard)))


def test_a_damaged_length_ends_the_file(shard):
    damage(shard, 27)
    first, second = scan_records(str(shard))
    assert first == b"a" * 11
    assert (second.kind, second.record) == ("header", 2)
    assert "its length does not match the length's CRC" in str(second)


def test_an_unbelievable_length_does_not_fill_the_memory(tmp_path):
    length = struct.pack("<Q", 2**62)
    path = tmp_path / "shard"
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"data")
    with pytest.raises(
        BadRecord, match=f"its length is {2**62} bytes, expected 2147483648 at most"
    ):
        list(read_records(str(path)))


@pytest.mark.parametrize(
    "data, kind, words",
    [
        (gzip.compress(frame(b"data")), "compressed", "gzip-compressed"),
        (zlib.compress(frame(b"data")), "compressed", "zlib-compressed"),
        (b"Index,Name\n0,Game\n", "not_tfrecord", "text that begins with b'Index,Name"),
        (b"hello\n", "not_tfrecord", "text that begins with b'hello"),
        (bytes(range(200)), "not_tfrecord", "does not begin with a length and its CRC"),
    ],
)
def test_what_is_no_tfrecord_file_is_told_apart(tmp_path, data, kind, words):
    path = tmp_path / "file"
    path.write_bytes(data)
    (bad,) = scan_records(str(path))
    assert (bad.kind, bad.record) == (kind, 1)
    assert words in str(bad)


def test_a_length_that_looks_like_a_compressed_file_is_a_length(tmp_path):
    records = [bytes(0x8B1F), bytes(0x9C78)]
    for record in records:
        write_records(str(tmp_path / "shard"), [record])
        assert list(read_records(str(tmp_path / "shard"))) == [record]


def test_a_missing_file_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="none"):
        list(read_records(str(tmp_path / "none")))


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
    def records():
        yield b"one"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_records(str(tmp_path / "shard"), records())
    assert list(tmp_path.iterdir()) == []


def test_a_bad_record_travels_between_processes():
    bad = pickle.loads(pickle.dumps(BadRecord("file", 3, "torn", "truncated")))
    assert (str(bad), bad.record, bad.kind) == ("file, record 3: torn.", 3, "truncated")
