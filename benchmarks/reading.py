"""How fast videos are read: python -m benchmarks.reading --help.

The trainer's input pipeline alone, against reading the same records and doing nothing with them.
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass

from benchmarks.data import data_flags
from trainer.command_line import flag, parse
from trainer.errors import without_traceback


@dataclass(frozen=True)
class ReadingBenchmark:
    """Prints how fast training's input comes, against reading raw records."""

    rounds: int = flag(5, "How often to read all records, each way.", "Benchmark")
    num_readers: int = flag(8, "Files read at once.", "Benchmark")


def measure(frame_features: bool, batch_size: int, config: ReadingBenchmark) -> str:
    """A line about records of one kind."""
    from trainer import reading, storage
    from trainer.config import TrainConfig

    train_config = TrainConfig(**data_flags(frame_features))
    files = storage.glob(train_config.train_data_pattern)
    megabytes = sum(storage.size(file) for file in files) / 1e6

    def raw():
        return _raw_records(files, config.num_readers).batch(batch_size)

    def parsed():
        return reading.training_batches(
            files, train_config.record_format, batch_size, 1, config.num_readers, seed=0
        ).map(lambda batch, epoch: batch["id"])

    num_videos = sum(len(batch) for batch in parsed())
    times = [[_seconds(raw()), _seconds(parsed())] for _ in range(config.rounds)]
    raw_time, parsed_time = (statistics.median(column) for column in zip(*times, strict=True))
    share = statistics.median(raw / parsed for raw, parsed in times)
    name = "frame level" if frame_features else "video level"
    return (
        f"{name:12} {num_videos / raw_time:12,.0f} {num_videos / parsed_time:12,.0f} "
        f"{megabytes / parsed_time:8,.0f} {share:8.1%}"
    )


def _raw_records(files, num_readers):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TFRecordDataset(file, buffer_size=1 << 20),
        cycle_length=num_readers,
        block_length=16,
        num_parallel_calls=num_readers,
    )


def _seconds(dataset) -> float:
    began = time.perf_counter()
    for _ in dataset:
        pass
    return time.perf_counter() - began


def main(argv: list[str]):
    """The command `python -m benchmarks.reading`."""
    config = parse(ReadingBenchmark, ["benchmarks.reading", *argv[1:]])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    lines = [measure(False, 1024, config), measure(True, 128, config)]
    print(f"{'':12} {'raw, /s':>12} {'videos/s':>12} {'MB/s':>8} {'of raw':>8}")
    print(*lines, sep="\n")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
