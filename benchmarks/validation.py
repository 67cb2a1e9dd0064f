"""How fast data is validated: python -m benchmarks.validation

Prints how CPU time and memory grow with the data, 1 to 64 times; then, for frame-level and
video-level files, MB/s and videos/s of one core beside other readers of the same records, all from
the page cache; then what the published data set, and a billion videos, would take.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from components.validate_data.parsing import Parser
from components.validate_data.shard import Shard, keep_freed_memory, scan
from components.validate_data.statistics import SplitStatistics
from trainer.examples import encode_example, encode_sequence_example
from trainer.records import Feature, RecordFormat
from trainer.tfrecord import read_records, write_records

FRAME = RecordFormat((Feature("rgb", 1024), Feature("audio", 128)), frame_features=True)
VIDEO = RecordFormat()
ROOT = Path(__file__).resolve().parents[1]

# https://research.google.com/youtube8m/download.html: frame-level features.
FULL_VIDEOS, FULL_BYTES = 6.1e6, 1.53e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="The best of so many counts.")
    parser.add_argument("--price", type=float, default=0.05, help="Dollars an hour of a core.")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grow(Path(folder))  # first: a child's peak memory counts its parent's at its start
        rate = compare_readers(Path(folder) / "frame", FRAME, frame_records(300), flags.repeats)
        compare_readers(Path(folder) / "video", VIDEO, video_records(10_000), flags.repeats)
    extrapolate(rate, flags.price)


def frame_records(num_videos: int, first: int = 0) -> Iterator[bytes]:
    """Frame-level videos of 120 to 300 frames, about 240 kB each."""
    rng = np.random.default_rng(first)
    pool = rng.normal(128, 40, (3000, 1152)).clip(0, 255).astype(np.uint8)
    for number in range(first, first + num_videos):
        start = rng.integers(0, 2700)
        frames = pool[start : start + rng.integers(120, 301)]
        yield encode_sequence_example(
            {"id": f"{number:07d}", "labels": rng.integers(0, 3862, 3)},
            {"rgb": frames[:, :1024], "audio": frames[:, 1024:]},
        )


def video_records(num_videos: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for number in range(num_videos):
        yield encode_example(
            {
                "id": f"{number:07d}",
                "labels": rng.integers(0, 3862, 3),
                "mean_rgb": rng.normal(0, 0.5, 1024).clip(-2, 2).astype(np.float32),
                "mean_audio": rng.normal(0, 0.7, 128).clip(-2, 2).astype(np.float32),
            }
        )


def compare_readers(
    path: Path, record_format: RecordFormat, records: Iterator[bytes], repeats: int
) -> float:
    """Prints a table of rates on one core; returns that of validation, in bytes a second."""
    write_records(str(path), records)
    size, num_videos = path.stat().st_size, sum(1 for _ in read_records(str(path)))
    print(f"\n{path.name} level, {size / 1e6:.0f} MB, {num_videos:,} videos, one core")
    print(f"{'':34}{'MB/s':>8}{'videos/s':>10}{'of raw':>8}")
    keep_freed_memory()
    seconds = {
        "raw: trainer.tfrecord, CRC checked": lambda: read_all(path),
        "raw: tf.data.TFRecordDataset": lambda: read_with_tensorflow(path),
        "raw: Beam's TFRecord reader": lambda: read_with_beam(path),
        "validate_data": lambda: validate(path, record_format),
    }
    seconds = {name: best(read, repeats) for name, read in seconds.items()}
    raw = next(iter(seconds.values()))
    for name, took in seconds.items():
        rates = f"{size / 1e6 / took:8.0f}{num_videos / took:10,.0f}"
        print(f"{name:34}{rates}{raw / took:8.0%}")
    return size / seconds["validate_data"]


def best(read: Callable[[], None], repeats: int) -> float:
    """The least CPU time, in seconds."""
    took = []
    for _ in range(repeats):
        start = time.process_time()
        read()
        took.append(time.process_time() - start)
    return min(took)


def read_all(path: Path) -> None:
    for _ in read_records(str(path)):
        pass


def read_with_tensorflow(path: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}  # no messages
    import tensorflow as tf

    for _ in tf.data.TFRecordDataset(str(path)):
        pass


def read_with_beam(path: Path) -> None:
    from apache_beam.io.tfrecordio import _TFRecordUtil

    with path.open("rb") as file:  # what ReadFromTFRecord does a record, without its pipeline
        while _TFRecordUtil.read_record(file) is not None:
            pass


def validate(path: Path, record_format: RecordFormat) -> None:
    statistics = SplitStatistics.empty(record_format)
    scan(Shard("train", str(path)), Parser(record_format), statistics)
    assert not statistics.findings.has("error")


def grow(folder: Path) -> None:
    """Prints CPU time and peak memory of the whole command, on 1 to 64 times the data."""
    print("\nThe command on more and more files of 60 videos (14 MB), in one process")
    print(f"{'files':>8}{'MB':>8}{'CPU s':>8}{'s a file':>10}{'peak MB':>9}")
    first = None
    for files in (1, 4, 16, 64):
        for i in range(files):
            path = folder / f"grow{i:02d}"
            if not path.exists():
                write_records(str(path), frame_records(60, first=60 * i))
        size = sum(path.stat().st_size for path in folder.glob("grow*"))
        seconds, peak = run_command(folder)
        first = first or seconds
        more = f"{(seconds - first) / (files - 1):.3f}" if files > 4 else ""
        print(f"{files:8}{size / 1e6:8.0f}{seconds:8.2f}{more:>10}{peak / 1e6:9.0f}")


def run_command(folder: Path) -> tuple[float, float]:
    """CPU seconds and peak bytes of the command over the files grow*."""
    command = [
        *(sys.executable, "-m", "components.validate_data", f"--input=train={folder}/grow*"),
        *("--feature_names=rgb,audio", "--feature_sizes=1024,128", "--frame_features"),
        *(f"--output_dir={folder}/out", "--direct_running_mode=in_memory"),
        "--direct_num_workers=1",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def extrapolate(rate: float, price: float) -> None:
    print(f"\nAt {rate / 1e6:.0f} MB/s a core, and ${price} an hour of a core")
    print(f"{'':34}{'TB':>8}{'core hours':>12}{'hours on 96':>13}{'$':>8}")
    for name, videos in (("the full set, 6.1 M videos", FULL_VIDEOS), ("a billion videos", 1e9)):
        size = FULL_BYTES * videos / FULL_VIDEOS
        hours = size / rate / 3600
        costs = f"{hours:12,.1f}{hours / 96:13,.2f}{hours * price:8,.2f}"
        print(f"{name:34}{size / 1e12:8,.1f}{costs}")


if __name__ == "__main__":
    main()
