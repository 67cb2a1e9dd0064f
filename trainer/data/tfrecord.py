"""TFRecord files, read and written without TensorFlow.

A file is a row of records, each
    length      uint64, little-endian
    length CRC  uint32, masked CRC32C of the length's 8 bytes
    data        `length` bytes
    data CRC    uint32, masked CRC32C of the data

Source: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import io
import struct
from collections.abc import Iterable, Iterator

import google_crc32c

from trainer.common import storage
from trainer.common.errors import UserError

BLOCK_BYTES = 1 << 20  # read at once: small records cost no system call, or request, each
MAX_RECORD_BYTES = 1 << 31  # protobuf's own limit to a message

# The first bytes of files that were written with a compression that we do not read.
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib"}

_TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<QI")


class BadRecord(UserError):
    """A record, or the rest of a file from it on, that cannot be read.

    Attributes:
        path: The file.
        record: The record's number, the first being 1.
        reason: What is wrong, in words.
        kind: What is wrong, in a word: "not_tfrecord", "compressed", "truncated", "header"
            (its length is damaged) or "crc" (its data is).
    """

    def __init__(self, path: str, record: int, reason: str, kind: str):
        super().__init__(f"{path}, record {record}: {reason}.")
        self.path, self.record, self.reason, self.kind = path, record, reason, kind

    def __reduce__(self):
        return BadRecord, (self.path, self.record, self.reason, self.kind)


def read_records(path: str) -> Iterator[bytes]:
    """The data of each record, in the file's order.

    Raises:
        BadRecord: a record is truncated or does not match its CRC, or the file is no TFRecord.
        UserError: the file cannot be opened.
    """
    for record in scan_records(path):
        if isinstance(record, BadRecord):
            raise record
        yield record


def scan_records(path: str) -> Iterator[bytes | BadRecord]:
    """The data of each record, and in its place a BadRecord for each that cannot be read.

    Data that does not match its CRC costs that record alone. After a truncated record, or one
    whose length cannot be believed, nothing more of the file can be read.

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
                expected, found = length + _CRC.size, len(data) + len(crc)
                reason = f"truncated: expected {expected} bytes of data and CRC, found {found}"
                yield BadRecord(path, number, reason, "truncated")
                return
            if _CRC.unpack(crc)[0] == masked_crc(data):
                yield data
            else:
                reason = f"its {length} bytes of data do not match their CRC"
                yield BadRecord(path, number, reason, "crc")


def _header_error(header: bytes, number: int) -> tuple[str, str] | None:
    """What is wrong with a record's first 12 bytes, in words and in a word; None: nothing."""
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
    """Writes a TFRecord file: whole, or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    storage.write_bytes(path, b"".join(map(frame, records)))


def frame(data: bytes) -> bytes:
    """A record as it stands in a file: its data between length and CRCs."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CRC.pack(masked_crc(length)), data, _CRC.pack(masked_crc(data))))


def masked_crc(data: bytes) -> int:
    """The CRC32C of `data` as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
