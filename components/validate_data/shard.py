"""Scan one file: collect its statistics, findings and video ids."""

import hashlib
from typing import NamedTuple

import numpy as np

from components.validate_data.batch import Batch
from components.validate_data.findings import Example
from components.validate_data.ids import IdBlock, pack
from components.validate_data.statistics import SplitStatistics
from components.validate_data.video_checks import check
from trainer.common.errors import UserError
from trainer.data.examples import Video, inspect
from trainer.data.records import RecordFormat
from trainer.data.tfrecord import BadRecord, identity, scan_records

# Enough for numpy to outweigh Python, but still within the CPU's caches.
BATCH_BYTES = 2 << 20


class Shard(NamedTuple):
    """One file of a split."""

    split: str
    path: str


def scan(shard: Shard, record_format: RecordFormat, statistics: SplitStatistics) -> IdBlock:
    """Read all records of a file, add them to `statistics`, and return the video ids.

    All problems become findings; none is raised.
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
    """Make malloc reuse freed memory instead of mapping new pages for every batch.

    Page faults would cost as much as all the arithmetic. glibc raises its threshold to the largest
    block freed so far, up to 32 MiB; with other allocators this has no effect.
    """
    np.empty(31 << 20, np.uint8)


class _Scanner:
    """The state between two records of a file."""

    def __init__(self, shard: Shard, record_format: RecordFormat, statistics: SplitStatistics):
        self.shard, self.record_format, self.statistics = shard, record_format, statistics
        self.num_records = self.num_bytes = self.num_findings = 0
        self.digest = hashlib.sha256()
        self.ids: list[tuple[int, str]] = []
        self.videos: list[Video] = []
        self.numbers: list[int] = []
        self.batch_bytes = 0

    def add(self, number: int, record: bytes) -> None:
        self.num_records += 1
        self.num_bytes += len(record)
        self.digest.update(identity(record))
        video, problems = inspect(record, self.record_format)
        if video.id:
            self.ids.append((number, video.id))
        if problems:
            self.statistics.num_records += 1
            for kind, reason in problems:
                self.add_finding(kind, number, video.id, reason)
            return
        self.videos.append(video)
        self.numbers.append(number)
        self.batch_bytes += len(record)
        if self.batch_bytes >= BATCH_BYTES:
            self._add_batch()

    def add_bad_record(self, bad: BadRecord) -> None:
        self.num_records += 1
        self.statistics.num_records += 1
        self.digest.update(identity(bad))
        self.add_finding(bad.kind, bad.record, "", bad.reason)

    def add_finding(self, kind: str, number: int, video_id: str, reason: str) -> None:
        self.num_findings += 1
        example = Example(self.shard.path, number, video_id, reason)
        self.statistics.findings.add(kind, self.shard.split, example)

    def finish(self) -> IdBlock:
        self._add_batch()
        if not self.num_records and not self.num_findings:
            self.add_finding("empty_file", 0, "", "the file has no records")
        self.statistics.num_bytes += self.num_bytes
        checksum = self.digest.hexdigest()
        self.statistics.files.append((self.shard.path, self.num_records, self.num_bytes, checksum))
        self.statistics.digest = (self.statistics.digest + int(checksum, 16)) % 2**256
        numbers, ids = zip(*self.ids, strict=True) if self.ids else ((), ())
        return pack(self.shard.split, self.shard.path, ids, numbers)

    def _add_batch(self) -> None:
        if not self.videos:
            return
        batch = Batch.stack(self.numbers, self.videos)
        self.videos, self.numbers, self.batch_bytes = [], [], 0
        for i, kind, reason in check(batch, self.record_format):
            self.add_finding(kind, batch.numbers[i], batch.ids[i], reason)
        self.statistics.add(batch)
