"""Bytes flipped at random in real files: never a crash, never a hang, never a silent pass."""

import random

import pytest

from components.validate_data.shard import Shard, scan
from components.validate_data.statistics import SplitStatistics
from trainer.data.examples import inspect
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import read_records

FRAME = RecordFormat((Feature("rgb", 1024), Feature("audio", 128)), frame_features=True)
FILES = [
    ("yt8m2018/video/validate0000.tfrecord", RecordFormat()),
    ("yt8m2018/frame/one_video.tfrecord", FRAME),
]
DAMAGE = {"crc", "header", "truncated", "not_tfrecord", "compressed", "empty_file"}


def scan_file(path, record_format: RecordFormat) -> SplitStatistics:
    statistics = SplitStatistics.empty(record_format)
    scan(Shard("train", str(path)), record_format, statistics)
    return statistics


@pytest.mark.parametrize("name, record_format", FILES)
def test_no_flipped_byte_passes(real_data, tmp_path, name, record_format):
    whole = (real_data / name).read_bytes()
    before = scan_file(real_data / name, record_format)
    path = tmp_path / "damaged"
    for seed in range(25):
        rng = random.Random(seed)
        data = bytearray(whole)
        for at in rng.sample(range(len(data)), rng.choice([1, 1, 3, 50])):
            data[at] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        got = scan_file(path, record_format)
        kinds = {kind for kind, _ in got.findings.found}
        assert kinds & DAMAGE, f"seed {seed} passed"
        assert got.num_videos < before.num_videos
        assert got.digest != before.digest


@pytest.mark.parametrize("name, record_format", FILES)
def test_no_cut_passes(real_data, tmp_path, name, record_format):
    whole = (real_data / name).read_bytes()
    path = tmp_path / "cut"
    for seed in range(25):
        path.write_bytes(whole[: random.Random(seed).randrange(len(whole))])
        kinds = {kind for kind, _ in scan_file(path, record_format).findings.found}
        assert kinds & DAMAGE, f"seed {seed} passed"


@pytest.mark.parametrize("name, record_format", FILES)
def test_no_record_crashes(real_data, name, record_format):
    """Damage that a CRC would have caught, were it not written by what did the damage."""
    record = next(read_records(str(real_data / name)))
    for seed in range(300):
        rng = random.Random(seed)
        data = bytearray(record)
        for at in rng.sample(range(len(data)), rng.choice([1, 2, 20])):
            data[at] = rng.randrange(256)
        # Most of a record is values; its structure is at the front.
        for at in rng.sample(range(200), rng.choice([0, 1, 3])):
            data[at] = rng.randrange(256)
        _, problems = inspect(bytes(data[: rng.randrange(len(data))]), record_format)
        assert problems
        inspect(bytes(data), record_format)
