"""How fast videos are read: python -m benchmarks.reading --help.

The trainer's input pipeline alone, against reading the same records and doing nothing with them.
"""

import statistics
import sys
import time
from dataclasses import dataclass

from benchmarks.data import data_flags, training_shards
from trainer import console
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

    model = "FrameLevelLogisticModel" if frame_features else "LogisticModel"
    train_config = TrainConfig(model=model, **data_flags(frame_features))
    files = training_shards(train_config)
    megabytes = sum(storage.size(file) for file in files) / 1e6

    def raw():
        return _raw_records(files, config.num_readers).batch(batch_size)

    def parsed():
        return reading.training_batches(
            files, train_config.record_format, batch_size, 1, config.num_readers, seed=0
        ).map(lambda batch, epoch: batch["id"])

    num_videos = sum(len(batch) for batch in parsed())
    rounds = [(_time(raw()), _time(parsed())) for _ in range(config.rounds)]
    raw_seconds = statistics.median(raw[0] for raw, _ in rounds)
    seconds = statistics.median(parsed[0] for _, parsed in rounds)
    wall, cpu = (
        statistics.median(raw[clock] / parsed[clock] for raw, parsed in rounds) for clock in (0, 1)
    )
    name = "frame level" if frame_features else "video level"
    return (
        f"{name:12} {num_videos / raw_seconds:12,.0f} {num_videos / seconds:12,.0f} "
        f"{megabytes / seconds:8,.0f} {wall:8.1%} {cpu:8.1%}"
    )


def _raw_records(files, num_readers):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(files).interleave(
        lambda file: tf.data.TFRecordDataset(file, buffer_size=1 << 20),
        cycle_length=num_readers,
        block_length=16,
        num_parallel_calls=num_readers,
    )


def _time(dataset) -> tuple[float, float]:
    """Seconds to go through it, by the clock, and of CPU time of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in dataset:
        pass
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str]):
    """The command `python -m benchmarks.reading`."""
    config = parse(ReadingBenchmark, ["benchmarks.reading", *argv[1:]])
    console.set_up()
    lines = [measure(False, 1024, config), measure(True, 128, config)]
    print(f"{'':12} {'raw, /s':>12} {'videos/s':>12} {'MB/s':>8} {'of raw':>8} {'of CPU':>8}")
    print(*lines, sep="\n")
    print("\nof raw  videos read and parsed in a second / raw records read in a second, in turn")
    print("of CPU  the same by CPU time, which other processes disturb less")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
