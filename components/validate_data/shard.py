"""Reads one file: what is in it, what is wrong with it, and which videos it holds."""

import hashlib
import struct
from typing import NamedTuple

import numpy as np

from components.validate_data.checks import check
from components.validate_data.findings import Example
from components.validate_data.ids import IdBlock, pack
from components.validate_data.statistics import SplitStatistics
from trainer.errors import UserError
from trainer.examples import Video, inspect
from trainer.records import RecordFormat
from trainer.tfrecord import BadRecord, masked_crc, scan_records

# Taken in at once: enough for numpy to outweigh Python, little enough for the CPU's caches.
BATCH_BYTES = 2 << 20


class Shard(NamedTuple):
    """One file of a split."""

    split: str
    path: str


def scan(shard: Shard, record_format: RecordFormat, statistics: SplitStatistics) -> IdBlock:
    """Reads all records of a file, adds them to `statistics`, and returns the videos' ids.

    Whatever is wrong becomes a finding: nothing is raised.
    """
    scanner = _Scanner(shard, record_format, statistics)
    try:
        for number, record in enumerate(scan_records(shard.path), start=1):
            if isinstance(record, BadRecord):
                scanner.add_bad_record(record)
            else:
                scanner.add(number, record)
    except (UserError, OSError) as error:
        scanner.add_finding("unreadable", 0, "", str(error))
    return scanner.finish()


def keep_freed_memory() -> None:
    """Makes malloc keep what is freed, instead of fetching fresh pages for every batch.

    Those pages would cost as much as all the arithmetic. glibc adapts to the largest block that was
    freed so far, up to 32 MiB; elsewhere this does nothing.
    """
    np.empty(31 << 20, np.uint8)


class _Scanner:
    """Between one record of a file and the next."""

    def __init__(self, shard: Shard, record_format: RecordFormat, statistics: SplitStatistics):
        self.shard, self.record_format, self.statistics = shard, record_format, statistics
        self.num_records = self.num_bytes = self.num_findings = 0
        self.digest = hashlib.sha256()
        self.ids: list[str] = []
        self.id_numbers: list[int] = []
        self.batch: list[Video] = []
        self.batch_numbers: list[int] = []
        self.batch_bytes = 0

    def add(self, number: int, record: bytes) -> None:
        self.num_records += 1
        self.num_bytes += len(record)
        # A record's length and CRC stand for its bytes, as they do in the file itself.
        self.digest.update(struct.pack("<QI", len(record), masked_crc(record)))
        video, problems = inspect(record, self.record_format)
        if video.id:
            self.ids.append(video.id)
            self.id_numbers.append(number)
        for kind, reason in problems:
            self.add_finding(kind, number, video.id, reason)
        if problems:
            self.statistics.records += 1
            return
        self.batch.append(video)
        self.batch_numbers.append(number)
        self.batch_bytes += len(record)
        if self.batch_bytes >= BATCH_BYTES:
            self._take_in_batch()

    def add_bad_record(self, bad: BadRecord) -> None:
        self.num_records += 1
        self.statistics.records += 1
        self.digest.update(bad.kind.encode())
        self.add_finding(bad.kind, bad.record, "", bad.reason)

    def add_finding(self, kind: str, number: int, video_id: str, reason: str) -> None:
        self.num_findings += 1
        example = Example(self.shard.path, number, video_id, reason)
        self.statistics.findings.add(kind, self.shard.split, example)

    def finish(self) -> IdBlock:
        self._take_in_batch()
        if not self.num_records and not self.num_findings:
            self.add_finding("empty_file", 0, "", "it holds no record")
        self.statistics.bytes += self.num_bytes
        self.statistics.files.append((self.shard.path, self.num_records, self.num_bytes))
        digest = int.from_bytes(self.digest.digest(), "big")
        self.statistics.digest = (self.statistics.digest + digest) % 2**256
        return pack(self.shard.split, self.shard.path, self.ids, self.id_numbers)

    def _take_in_batch(self) -> None:
        if self.batch:
            for i, kind, reason in check(self.batch, self.record_format):
                self.add_finding(kind, self.batch_numbers[i], self.batch[i].id, reason)
            self.statistics.add(self.batch, self.record_format)
        self.batch, self.batch_numbers, self.batch_bytes = [], [], 0
