"""Finds videos that come more than once, exactly, however many there are.

Ids travel as arrays, a block a file, cut into buckets by a hash of the id: all videos of an id meet
in one bucket, and a bucket of any number of videos fits in memory.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from components.validate_data.findings import Example, Findings

MAX_ID_BYTES = 64  # longer ones are shortened to a prefix and a digest


@dataclass(frozen=True)
class IdBlock:
    """Ids of videos of one file: byte strings [videos], and their records' numbers, [videos]."""

    split: str
    path: str
    ids: np.ndarray
    numbers: np.ndarray


def pack(split: str, path: str, ids: list[str], numbers: list[int]) -> IdBlock:
    """A block from the ids and the record numbers of a file's videos."""
    as_bytes = np.array([_shorten(video_id.encode()) for video_id in ids], "S")
    return IdBlock(split, path, as_bytes, np.array(numbers, np.uint32))


def _shorten(video_id: bytes) -> bytes:
    if len(video_id) <= MAX_ID_BYTES:
        return video_id
    return video_id[:31] + b"~" + hashlib.sha256(video_id).hexdigest()[:32].encode()


def cut(block: IdBlock, num_buckets: int) -> Iterator[tuple[int, IdBlock]]:
    """(bucket, its part of the block) for each bucket that has one."""
    bucket_of = _hash(block.ids) % np.uint64(num_buckets)
    for bucket in np.unique(bucket_of):
        chosen = bucket_of == bucket
        part = IdBlock(block.split, block.path, block.ids[chosen], block.numbers[chosen])
        yield int(bucket), part


def _hash(ids: np.ndarray) -> np.ndarray:
    """A number an id, uint64 [ids], whatever the width of the array."""
    letters = ids.view(np.uint8).reshape(len(ids), ids.itemsize).astype(np.uint64)
    # Odd powers, modulo 2 ** 64; a shorter id's padding, 0, adds nothing.
    weights = np.cumprod(np.full(ids.itemsize, 0x9E3779B97F4A7C15, np.uint64))
    return (letters @ weights) >> np.uint64(20)


def find_repeated(blocks: Iterable[IdBlock]) -> Findings:
    """Findings "duplicate" (several times in a split) and "leak" (in several splits).

    Each counts videos: one for each id and split, or pair of splits.
    """
    findings = Findings()
    blocks = sorted(blocks, key=lambda block: (block.split, block.path))
    blocks = [block for block in blocks if len(block.ids)]
    if not blocks:
        return findings
    ids = np.concatenate([block.ids for block in blocks])
    numbers = np.concatenate([block.numbers for block in blocks])
    block_of = np.repeat(np.arange(len(blocks)), [len(block.ids) for block in blocks])
    order = np.argsort(ids, kind="stable")  # the videos of an id stay in the order of the blocks
    ids, numbers, block_of = ids[order], numbers[order], block_of[order]
    starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    ends = np.append(starts[1:], len(ids))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        places = [(blocks[block_of[i]], int(numbers[i])) for i in range(start, end)]
        _add(findings, ids[start].decode(errors="replace"), places)
    return findings


def _add(findings: Findings, video_id: str, places: list[tuple[IdBlock, int]]) -> None:
    first_of: dict[str, tuple[IdBlock, int]] = {}
    copied = set()
    for block, number in places:
        if block.split not in first_of:
            first_of[block.split] = (block, number)
        elif block.split not in copied:
            copied.add(block.split)
            first, first_number = first_of[block.split]
            reason = f"video {video_id!r} is also in {first.path}, record {first_number}"
            findings.add("duplicate", block.split, Example(block.path, number, video_id, reason))
    splits = list(first_of)
    for i, one in enumerate(splits):
        for other in splits[i + 1 :]:
            block, number = first_of[one]
            there, its_number = first_of[other]
            reason = (
                f"video {video_id!r} of {one!r} is also in {other!r}: "
                f"{there.path}, record {its_number}"
            )
            example = Example(block.path, number, video_id, reason)
            findings.add("leak", f"{one} + {other}", example)
