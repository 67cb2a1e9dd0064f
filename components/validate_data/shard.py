"""Reads one file: what is in it, what is wrong with it, and which videos it holds."""

import hashlib
import struct
from typing import NamedTuple

from components.validate_data.findings import Example
from components.validate_data.ids import IdBlock, pack
from components.validate_data.statistics import SplitStatistics, of_videos
from trainer.errors import UserError
from trainer.examples import Video, inspect
from trainer.records import RecordFormat
from trainer.tfrecord import BadRecord, masked_crc, scan_records

# Features taken in at once: enough for numpy to outweigh Python, few enough for the CPU's caches.
BATCH_BYTES = 2 << 20


class Shard(NamedTuple):
    """One file of a split."""

    split: str
    path: str


def scan(shard: Shard, record_format: RecordFormat) -> tuple[SplitStatistics, IdBlock]:
    """Statistics and findings of all records of a file, and the ids of its videos.

    Whatever is wrong is a finding: none is raised.
    """
    scanner = _Scanner(shard, record_format)
    try:
        for number, record in enumerate(scan_records(shard.path), start=1):
            if isinstance(record, BadRecord):
                scanner.add_bad_record(record)
            else:
                scanner.add(number, record)
    except (UserError, OSError) as error:
        scanner.add_finding("unreadable", 0, "", str(error))
    return scanner.finish()


class _Scanner:
    def __init__(self, shard: Shard, record_format: RecordFormat):
        self.shard, self.record_format = shard, record_format
        self.statistics = SplitStatistics.empty(record_format.num_classes)
        self.statistics.files = 1
        self.digest = hashlib.sha256()
        self.ids: list[str] = []
        self.numbers: list[int] = []
        self.batch: list[Video] = []
        self.batch_bytes = 0

    def add(self, number: int, record: bytes) -> None:
        # A record's length and CRC stand for its bytes, as they do in the file itself.
        self.digest.update(struct.pack("<QI", len(record), masked_crc(record)))
        self.statistics.bytes += len(record)
        video, problems = inspect(record, self.record_format)
        if video.id:
            self.ids.append(video.id)
            self.numbers.append(number)
        for kind, reason in problems:
            self.add_finding(kind, number, video.id, reason)
        if problems:
            self.statistics.records += 1
        else:
            self.batch.append(video)
            self.batch_bytes += len(record)
            if self.batch_bytes >= BATCH_BYTES:
                self._take_in_batch()

    def add_bad_record(self, bad: BadRecord) -> None:
        self.statistics.records += 1
        self.digest.update(bad.kind.encode())
        self.add_finding(bad.kind, bad.record, "", bad.reason)

    def add_finding(self, kind: str, number: int, video_id: str, reason: str) -> None:
        example = Example(self.shard.path, number, video_id, reason)
        self.statistics.findings.add(kind, self.shard.split, example)

    def finish(self) -> tuple[SplitStatistics, IdBlock]:
        self._take_in_batch()
        if not self.statistics.records and not self.statistics.findings.found:
            self.add_finding("empty_file", 0, "", "it holds no record")
        self.statistics.digest = int.from_bytes(self.digest.digest(), "big")
        return self.statistics, pack(self.shard.split, self.shard.path, self.ids, self.numbers)

    def _take_in_batch(self) -> None:
        if self.batch:
            self.statistics.merge(of_videos(self.batch, self.record_format))
        self.batch, self.batch_bytes = [], 0
