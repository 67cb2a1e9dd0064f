import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.validate_data.ids import MAX_ID_BYTES, find_duplicates, pack, partition


def test_copies_and_leaks_by_hand():
    findings = find_duplicates(
        [
            pack("train", "t1", ["a", "b", "a"], [1, 2, 5]),
            pack("train", "t2", ["c", "a"], [1, 2]),
            pack("eval", "e1", ["d", "c"], [1, 4]),
            pack("eval", "e2", [], []),
        ]
    )
    duplicate = findings.found["duplicate", "train"]
    assert duplicate.count == 1
    assert str(duplicate.examples[0]) == "t1, record 5: video 'a' is also in t1, record 1"
    leak = findings.found["leak", "eval + train"]
    assert leak.count == 1
    assert (
        str(leak.examples[0])
        == "e1, record 4: video 'c' of 'eval' is also in 'train': t2, record 1"
    )
    assert len(findings.found) == 2


def test_no_videos():
    assert find_duplicates([]).found == {}
    assert find_duplicates([pack("train", "file", [], [])]).found == {}
    assert list(partition(pack("train", "file", [], []), 4)) == []


def test_long_ids_are_told_apart():
    long = "x" * (MAX_ID_BYTES + 10)
    findings = find_duplicates([pack("train", "file", [long + "1", long + "2"], [1, 2])])
    assert findings.found == {}
    for again in (long, "€" * MAX_ID_BYTES):
        findings = find_duplicates([pack("train", "file", [again, again], [1, 2])])
        assert findings.found["duplicate", "train"].count == 1


files = st.lists(
    st.tuples(
        st.sampled_from(["train", "eval"]),
        st.lists(st.text("ab€", min_size=1, max_size=3), max_size=10),
    ),
    max_size=5,
)


@given(files, st.integers(1, 5))
def test_buckets_find_what_counting_finds(files, num_buckets):
    blocks = [
        pack(split, f"file{i}", ids, list(range(1, len(ids) + 1)))
        for i, (split, ids) in enumerate(files)
    ]
    buckets = collections.defaultdict(list)
    for block in blocks:
        for bucket, part in partition(block, num_buckets):
            buckets[bucket].append(part)
    found = collections.Counter()
    for bucket in buckets.values():
        for (kind, _), finding in find_duplicates(bucket).found.items():
            found[kind] += finding.count

    counts = {"train": collections.Counter(), "eval": collections.Counter()}
    for split, ids in files:
        counts[split].update(ids)
    copies = sum(n > 1 for split in counts.values() for n in split.values())
    assert found["duplicate"] == copies
    assert found["leak"] == len(counts["train"].keys() & counts["eval"].keys())


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1))
def test_an_id_has_one_bucket_whatever_it_is_packed_with(ids):
    alone = [
        bucket for video_id in ids for bucket, _ in partition(pack("s", "f", [video_id], [1]), 7)
    ]
    together = np.zeros(len(ids) + 1, int)
    for bucket, part in partition(pack("s", "f", [*ids, "y" * 40], range(len(ids) + 1)), 7):
        together[part.numbers] = bucket
    assert together[:-1].tolist() == alone
