"""Find duplicate videos, exactly, in data of any size.

The ids of each file are partitioned into buckets by a hash of the id. All videos with the same id
end up in the same bucket, and each bucket fits in memory. Beam's GroupByKey by id would shuffle one
element per video, and approximate methods (Bloom filters, HyperLogLog) cannot name the duplicates.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from components.validate_data.findings import Example, Findings

MAX_ID_BYTES = 64  # longer ids are shortened to a prefix and a digest


@dataclass(frozen=True)
class IdBlock:
    """Video ids of one file, bytes [num_videos], and their record numbers, uint32 [num_videos]."""

    split: str
    path: str
    ids: np.ndarray
    numbers: np.ndarray


def pack(split: str, path: str, ids: list[str], numbers: list[int]) -> IdBlock:
    """Return the block of a file's video ids and record numbers."""
    as_bytes = np.array([_shorten(video_id.encode()) for video_id in ids], "S")
    return IdBlock(split, path, as_bytes, np.array(numbers, np.uint32))


def _shorten(video_id: bytes) -> bytes:
    if len(video_id) <= MAX_ID_BYTES:
        return video_id
    return video_id[:31] + b"~" + hashlib.sha256(video_id).hexdigest()[:32].encode()


def partition(block: IdBlock, num_buckets: int) -> Iterator[tuple[int, IdBlock]]:
    """Yield (bucket, part of the block) for each non-empty bucket."""
    bucket_of = _hash(block.ids) % np.uint64(num_buckets)
    for bucket in np.unique(bucket_of):
        chosen = bucket_of == bucket
        part = IdBlock(block.split, block.path, block.ids[chosen], block.numbers[chosen])
        yield int(bucket), part


def _hash(ids: np.ndarray) -> np.ndarray:
    """Hash each id to uint64 [num_ids], independently of the width of the array."""
    letters = ids.view(np.uint8).reshape(len(ids), ids.itemsize).astype(np.uint64)
    # Powers of an odd number modulo 2 ** 64. The zero padding of shorter ids adds nothing.
    weights = np.cumprod(np.full(ids.itemsize, 0x9E3779B97F4A7C15, np.uint64))
    return (letters @ weights) >> np.uint64(20)


def find_duplicates(blocks: Iterable[IdBlock]) -> Findings:
    """Return the findings "duplicate" (repeated within a split) and "leak" (in several splits).

    Each finding counts video ids, per split or pair of splits.
    """
    findings = Findings()
    blocks = sorted(blocks, key=lambda block: (block.split, block.path))
    blocks = [block for block in blocks if len(block.ids)]
    if not blocks:
        return findings
    ids = np.concatenate([block.ids for block in blocks])
    numbers = np.concatenate([block.numbers for block in blocks])
    block_of = np.repeat(np.arange(len(blocks)), [len(block.ids) for block in blocks])
    order = np.argsort(ids, kind="stable")  # stable: keep the order of the blocks
    ids, numbers, block_of = ids[order], numbers[order], block_of[order]
    starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    ends = np.append(starts[1:], len(ids))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        places = [(blocks[block_of[i]], int(numbers[i])) for i in range(start, end)]
        _add(findings, ids[start].decode(errors="replace"), places)
    return findings


def _add(findings: Findings, video_id: str, places: list[tuple[IdBlock, int]]) -> None:
    first_places: dict[str, tuple[IdBlock, int]] = {}
    duplicated = set()
    for block, number in places:
        if block.split not in first_places:
            first_places[block.split] = (block, number)
        elif block.split not in duplicated:
            duplicated.add(block.split)
            first, first_number = first_places[block.split]
            reason = f"video {video_id!r} is also in {first.path}, record {first_number}"
            findings.add("duplicate", block.split, Example(block.path, number, video_id, reason))
    for split, other_split in itertools.combinations(first_places, 2):
        block, number = first_places[split]
        other, other_number = first_places[other_split]
        reason = (
            f"video {video_id!r} of {split!r} is also in {other_split!r}: "
            f"{other.path}, record {other_number}"
        )
        example = Example(block.path, number, video_id, reason)
        findings.add("leak", f"{split} + {other_split}", example)
