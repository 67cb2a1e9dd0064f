"""Read and write TFRecord files without TensorFlow.

Neither `tf.data.TFRecordDataset` nor Beam's TFRecord I/O says which record of a file is damaged, or
continues after it. Beam workers also load faster without TensorFlow.

A file is a sequence of records, each
    length      uint64, little-endian
    length CRC  uint32, masked CRC32C of the length's 8 bytes
    data        `length` bytes
    data CRC    uint32, masked CRC32C of the data

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import io
import os
import struct
from collections.abc import Iterable, Iterator

import google_crc32c

from trainer.common import storage
from trainer.common.errors import UserError

BLOCK_BYTES = 1 << 20  # bytes per read: small records need no system call or request each
MAX_RECORD_BYTES = 1 << 31  # protobuf's limit for a message

# First bytes of compressed files, which are not supported.
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib"}

_TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<QI")


class BadRecord(UserError):
    """A damaged record, or a damaged rest of a file from this record on.

    Attributes:
        path: the file.
        record: number of the record, from 1.
        reason: description of the damage.
        kind: kind of damage: "not_tfrecord", "compressed", "truncated", "header" (the length is
            damaged) or "crc" (the data is damaged).
    """

    def __init__(self, path: str, record: int, reason: str, kind: str):
        super().__init__(f"{path}, record {record}: {reason}.")
        self.path, self.record, self.reason, self.kind = path, record, reason, kind

    def __reduce__(self):
        return BadRecord, (self.path, self.record, self.reason, self.kind)


def read_records(path: str) -> Iterator[bytes]:
    """Yield the data of each record, in the order of the file.

    Raises:
        BadRecord: a record is truncated or does not match its CRC, or the file is not a TFRecord
            file.
        UserError: the file cannot be opened.
    """
    for record in scan_records(path):
        if isinstance(record, BadRecord):
            raise record
        yield record


def scan_records(path: str) -> Iterator[bytes | BadRecord]:
    """Yield the data of each record, or a BadRecord in place of a damaged one.

    If data does not match its CRC, only that record is lost. After a truncated record or a damaged
    length, the rest of the file cannot be read.

    Raises:
        UserError: the file cannot be opened.
    """
    with storage.open_read(path) as file:
        blocks = io.BufferedReader(file, BLOCK_BYTES)
        number = 0
        while header := blocks.read(_HEADER.size):
            number += 1
            if broken := _header_error(header, number):
                yield BadRecord(path, number, *broken)
                return
            length, _ = _HEADER.unpack(header)
            if length > MAX_RECORD_BYTES:
                reason = f"its length is {length} bytes, expected {MAX_RECORD_BYTES} at most"
                yield BadRecord(path, number, reason, "header")
                return
            data, crc = blocks.read(length), blocks.read(_CRC.size)
            if len(crc) < _CRC.size:
                yield BadRecord(path, number, *_truncated(length, len(data) + len(crc)))
                return
            if _CRC.unpack(crc)[0] == masked_crc(data):
                yield data
            else:
                reason = f"its {length} bytes of data do not match their CRC"
                yield BadRecord(path, number, reason, "crc")


def num_records(path: str) -> int:
    """Count the records of a local file by their lengths, without reading their data.

    Raises:
        BadRecord: the file does not end with a whole record.
        UserError: the file cannot be opened.
    """
    with storage.open_read(path) as file:
        size, offset, number = os.fstat(file.fileno()).st_size, 0, 0
        while offset < size:
            number += 1
            header = os.pread(file.fileno(), _HEADER.size, offset)
            if broken := _header_error(header, number):
                raise BadRecord(path, number, *broken)
            length, _ = _HEADER.unpack(header)
            offset += _HEADER.size + length + _CRC.size
        if offset > size:
            found = length + _CRC.size - (offset - size)
            raise BadRecord(path, number, *_truncated(length, found))
    return number


def _truncated(length: int, found: int) -> tuple[str, str]:
    expected = length + _CRC.size
    return f"truncated: expected {expected} bytes of data and CRC, found {found}", "truncated"


def _header_error(header: bytes, number: int) -> tuple[str, str] | None:
    """Return reason and kind of the damage in the first 12 bytes of a record; None if valid."""
    if len(header) == _HEADER.size:
        _, crc = _HEADER.unpack(header)
        if crc == masked_crc(header[: _LENGTH.size]):
            return None
    if number == 1 and header[:2] in COMPRESSED:
        name = COMPRESSED[header[:2]]
        return f"{name}-compressed: expected a TFRecord file without compression", "compressed"
    if number == 1 and all(byte in _TEXT for byte in header):
        return f"not a TFRecord file, but text that begins with {header!r}", "not_tfrecord"
    if len(header) < _HEADER.size:
        return f"truncated: expected a header of 12 bytes, found {len(header)}", "truncated"
    if number == 1:
        return "not a TFRecord file: it does not begin with a length and its CRC", "not_tfrecord"
    return "damaged: its length does not match the length's CRC", "header"


def write_records(path: str, records: Iterable[bytes]) -> None:
    """Write a TFRecord file atomically.

    Raises:
        UserError: the file cannot be written.
    """
    storage.write_bytes(path, b"".join(map(frame, records)))


def frame(data: bytes) -> bytes:
    """Return a record as stored in a file: the data with its length and CRCs."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CRC.pack(masked_crc(length)), data, _CRC.pack(masked_crc(data))))


def identity(record: bytes | BadRecord) -> bytes:
    """Return a few bytes that identify a record: its length and CRC, or the kind of its damage."""
    if isinstance(record, BadRecord):
        return record.kind.encode()
    return _HEADER.pack(len(record), masked_crc(record))


def masked_crc(data: bytes) -> int:
    """Return the masked CRC32C of `data`: rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
