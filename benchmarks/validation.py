"""Benchmark of data validation: python -m benchmarks.validation

Prints CPU time and peak memory for 1 to 64 files; the throughput of one core compared with other
readers of the same records, from the page cache; and an estimate for the full dataset and for a
billion videos. With --tfdv_python, a Python with TensorFlow Data Validation (see tfdv.py), it is
compared on the same files.
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

from components.validate_data.shard import Shard, keep_freed_memory, scan
from components.validate_data.statistics import SplitStatistics
from pipeline.paths import ROOT
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import read_records, write_records

FRAME = RecordFormat((Feature("rgb", 1024), Feature("audio", 128)), frame_features=True)
VIDEO = RecordFormat()

# https://research.google.com/youtube8m/download.html: frame-level features.
FULL_VIDEOS, FULL_BYTES = 6.1e6, 1.53e12

# Level -> record format, videos per file (14 MB), and numbers of files.
LEVELS = {
    "frame": (FRAME, 60, (1, 4, 16, 64)),
    "video": (VIDEO, 3000, (1, 4, 16)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=5, help="Runs per reader; the fastest counts."
    )
    parser.add_argument("--price", type=float, default=0.05, help="Price of a core in $ per hour.")
    parser.add_argument("--tfdv_python", help="Python with TensorFlow Data Validation.")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for level in LEVELS:  # first: a child's peak memory includes its parent's at the fork
            grow(Path(folder), level, flags.tfdv_python)
        rates = [compare_readers(Path(folder), level, flags.repeats) for level in LEVELS]
    extrapolate(rates[0], flags.price)


def records(level: str, num_videos: int, first: int = 0) -> Iterator[bytes]:
    """Yield records with ids from `first`."""
    return {"frame": frame_records, "video": video_records}[level](num_videos, first)


def frame_records(num_videos: int, first: int = 0) -> Iterator[bytes]:
    """Yield frame-level records with 120 to 300 frames, about 240 kB each."""
    rng = np.random.default_rng(first)
    pool = rng.normal(128, 40, (3000, 1152)).clip(0, 255).astype(np.uint8)
    for number in range(first, first + num_videos):
        start = rng.integers(0, 2700)
        frames = pool[start : start + rng.integers(120, 301)]
        yield encode_sequence_example(
            {"id": f"{number:07d}", "labels": rng.integers(0, 3862, 3)},
            {"rgb": frames[:, :1024], "audio": frames[:, 1024:]},
        )


def video_records(num_videos: int, first: int = 0) -> Iterator[bytes]:
    """Yield video-level records, about 4.7 kB each."""
    rng = np.random.default_rng(first)
    for number in range(first, first + num_videos):
        yield encode_example(
            {
                "id": f"{number:07d}",
                "labels": rng.integers(0, 3862, 3),
                "mean_rgb": rng.normal(0, 0.5, 1024).clip(-2, 2).astype(np.float32),
                "mean_audio": rng.normal(0, 0.7, 128).clip(-2, 2).astype(np.float32),
            }
        )


def compare_readers(folder: Path, level: str, repeats: int) -> float:
    """Print the throughput on one core; return that of validate_data in bytes per second."""
    record_format, num_videos, _ = LEVELS[level]
    num_videos *= 5
    path = folder / "records"
    write_records(str(path), records(level, num_videos))
    size = path.stat().st_size
    print(f"\n{level} level, {size / 1e6:.0f} MB, {num_videos:,} videos, one core")
    print(f"{'':34}{'MB/s':>8}{'videos/s':>10}{'of tf.data':>12}{'of raw':>9}")
    keep_freed_memory()
    readers = {
        "raw: tf.data.TFRecordDataset": lambda: read_with_tensorflow(path),
        "raw: trainer.data.tfrecord": lambda: read_all(path),
        "raw: Beam's TFRecord reader": lambda: read_with_beam(path),
        "validate_data": lambda: validate(path, record_format),
    }
    seconds = {name: best(read, repeats) for name, read in readers.items()}
    tensorflow, raw, *_ = seconds.values()
    for name, took in seconds.items():
        rates = f"{size / 1e6 / took:8,.0f}{num_videos / took:10,.0f}"
        print(f"{name:34}{rates}{tensorflow / took:12.0%}{raw / took:9.0%}")
    return size / seconds["validate_data"]


def best(read: Callable[[], None], repeats: int) -> float:
    """Return the minimum CPU time in seconds."""
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
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}  # silent
    import tensorflow as tf

    for _ in tf.data.TFRecordDataset(str(path)):
        pass


def read_with_beam(path: Path) -> None:
    from apache_beam.io.tfrecordio import _TFRecordUtil

    with path.open("rb") as file:  # as ReadFromTFRecord, without a pipeline
        while _TFRecordUtil.read_record(file) is not None:
            pass


def validate(path: Path, record_format: RecordFormat) -> None:
    statistics = SplitStatistics.empty(record_format)
    scan(Shard("train", str(path)), record_format, statistics)
    assert not statistics.findings.has("error")


def grow(folder: Path, level: str, tfdv_python: str | None) -> None:
    """Print CPU time and peak memory of the command for increasing numbers of files."""
    record_format, num_videos, numbers_of_files = LEVELS[level]
    print(f"\nThe command on files of {num_videos:,} {level}-level videos, in one process")
    print(f"{'files':>8}{'MB':>8}{'CPU s':>8}{'s per file':>12}{'peak MB':>9}")
    seconds = {}
    for files in numbers_of_files:
        for i in range(files):
            path = folder / f"{level}{i:02d}"
            if not path.exists():
                write_records(str(path), records(level, num_videos, first=num_videos * i))
        size = sum(path.stat().st_size for path in folder.glob(f"{level}*"))
        seconds[files], peak = run_command(folder, level, record_format)
        slope = f"{per_file(seconds):.3f}" if files > 4 else ""
        print(f"{files:8}{size / 1e6:8.0f}{seconds[files]:8.2f}{slope:>12}{peak / 1e6:9.0f}")
    if tfdv_python:
        tfdv = per_file(
            {
                1: run_tfdv(tfdv_python, folder, level, "00"),
                10: run_tfdv(tfdv_python, folder, level, "0?"),
            }
        )
        ratio = tfdv / per_file(seconds)
        print(f"TensorFlow Data Validation: {tfdv:.3f} s per file, {ratio:.1f} times as long")


def per_file(seconds: dict[int, float]) -> float:
    """Return seconds per additional file, given number of files -> seconds."""
    low, high = min(seconds), max(seconds)
    return (seconds[high] - seconds[low]) / (high - low)


def run_command(folder: Path, level: str, record_format: RecordFormat) -> tuple[float, float]:
    """Return CPU seconds and peak memory in bytes of the command on all files of a level."""
    features = record_format.features
    command = [
        *(sys.executable, "-m", "components.validate_data", f"--input=train={folder}/{level}*"),
        f"--feature_names={','.join(feature.name for feature in features)}",
        f"--feature_sizes={','.join(str(feature.size) for feature in features)}",
        *(["--frame_features"] if record_format.frame_features else []),
        *(f"--output_dir={folder}/out", "--direct_running_mode=in_memory"),
        "--direct_num_workers=1",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def run_tfdv(python: str, folder: Path, level: str, which: str) -> float:
    """Return CPU seconds of TensorFlow Data Validation on the files {level}{which}."""
    command = [python, ROOT / "benchmarks" / "tfdv.py", level, f"{folder}/{level}{which}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def extrapolate(rate: float, price: float) -> None:
    print(f"\nAt {rate / 1e6:.0f} MB/s per core and ${price} per core hour")
    print(f"{'':34}{'TB':>8}{'core hours':>12}{'minutes on 96':>15}{'$':>8}")
    for name, videos in (("the full set, 6.1 M videos", FULL_VIDEOS), ("a billion videos", 1e9)):
        size = FULL_BYTES * videos / FULL_VIDEOS
        hours = size / rate / 3600
        costs = f"{hours:12,.1f}{hours / 96 * 60:15,.1f}{hours * price:8,.2f}"
        print(f"{name:34}{size / 1e12:8,.1f}{costs}")


if __name__ == "__main__":
    main()
