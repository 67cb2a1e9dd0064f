"""Reads one file: what is in it, what is wrong with it, and which videos it holds."""

import hashlib
import struct
from typing import NamedTuple

import numpy as np

from components.validate_data.checks import check
from components.validate_data.findings import Example
from components.validate_data.ids import IdBlock, pack
from components.validate_data.parsing import Parser
from components.validate_data.statistics import SplitStatistics
from trainer.common.errors import UserError
from trainer.data.tfrecord import BadRecord, masked_crc, scan_records

# Taken in at once: enough for numpy to outweigh Python, little enough for the CPU's caches.
BATCH_BYTES = 2 << 20


class Shard(NamedTuple):
    """One file of a split."""

    split: str
    path: str


def scan(shard: Shard, parser: Parser, statistics: SplitStatistics) -> IdBlock:
    """Reads all records of a file, adds them to `statistics`, and returns the videos' ids.

    Whatever is wrong becomes a finding: nothing is raised.
    """
    scanner = _Scanner(shard, parser, statistics)
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

    def __init__(self, shard: Shard, parser: Parser, statistics: SplitStatistics):
        self.shard, self.parser, self.statistics = shard, parser, statistics
        self.num_records = self.num_bytes = self.num_findings = 0
        self.digest = hashlib.sha256()
        self.ids: list[tuple[int, str]] = []
        self.batch: list = []
        self.batch_numbers: list[int] = []
        self.batch_bytes = 0

    def add(self, number: int, record: bytes) -> None:
        self.num_records += 1
        # A record's length and CRC stand for its bytes, as they do in the file itself.
        self.digest.update(struct.pack("<QI", len(record), masked_crc(record)))
        self.batch.append(self.parser.look_at(record))
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
        self.ids.sort()
        numbers, ids = zip(*self.ids, strict=True) if self.ids else ((), ())
        return pack(self.shard.split, self.shard.path, ids, numbers)

    def _take_in_batch(self) -> None:
        batch, bad = self.parser.parse(self.batch_numbers, self.batch)
        self.num_bytes += self.batch_bytes
        self.batch, self.batch_numbers, self.batch_bytes = [], [], 0
        self.statistics.records += len(bad)
        for number, video_id, problems in bad:
            if video_id:
                self.ids.append((number, video_id))
            for kind, reason in problems:
                self.add_finding(kind, number, video_id, reason)
        if batch:
            self.ids.extend(zip(batch.numbers, batch.ids, strict=True))
            for i, kind, reason in check(batch, self.parser.record_format):
                self.add_finding(kind, batch.numbers[i], batch.ids[i], reason)
            self.statistics.add(batch)
