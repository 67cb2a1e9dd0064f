"""How fast videos are read: python -m benchmarks.reading --help.

The trainer's input pipeline alone, against reading the same records and doing nothing with them:
in this process, and in one where TensorFlow's memory is managed as it is without trainer/memory.py.
"""

import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass

from benchmarks.data import data_flags, training_shards
from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import without_traceback


@dataclass(frozen=True)
class ReadingBenchmark:
    """Prints how fast training's input comes, against reading raw records."""

    rounds: int = flag(5, "How often to read all records, each way.", "Benchmark")
    num_readers: int = flag(8, "Files read at once.", "Benchmark")


def measure(frame_features: bool, batch_size: int, config: ReadingBenchmark) -> str:
    """A line about records of one kind."""
    from trainer.common import storage
    from trainer.config import TrainConfig
    from trainer.data import input_pipeline

    model = "FrameLevelLogisticModel" if frame_features else "LogisticModel"
    train_config = TrainConfig(model=model, **data_flags(frame_features))
    files = training_shards(train_config)
    megabytes = sum(storage.size(file) for file in files) / 1e6

    def parsed():
        return input_pipeline.training_batches(
            files, train_config.record_format, batch_size, 1, config.num_readers, seed=0
        ).map(lambda batch, epoch: batch["id"])

    raw = files, config.num_readers, batch_size
    num_videos = sum(len(batch) for batch in parsed())
    with multiprocessing.get_context("spawn").Pool(1) as plain:
        plain.apply(_time_raw, raw)  # which loads TensorFlow
        rounds = [
            (plain.apply(_time_raw, raw), _time_raw(*raw), _time(parsed()))
            for _ in range(config.rounds)
        ]
    walls, cpus = ([[each[clock] for each in times] for times in rounds] for clock in (0, 1))
    rates = [num_videos / statistics.median(column) for column in zip(*walls, strict=True)]
    shares = [
        statistics.median(times[other] / times[2] for times in clock)
        for clock in (walls, cpus)
        for other in (0, 1)
    ]
    name = "frame level" if frame_features else "video level"
    return (
        f"{name:12}"
        + "".join(f" {rate:12,.0f}" for rate in rates)
        + f" {megabytes * rates[2] / num_videos:8,.0f}"
        + "".join(f" {share:8.1%}" for share in shares)
    )


def _time_raw(files, num_readers, batch_size) -> tuple[float, float]:
    return _time(_raw_records(files, num_readers).batch(batch_size))


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
    rates = f"{'plain raw, /s':>12} {'raw, /s':>11} {'videos/s':>12} {'MB/s':>8}"
    print(f"{'':12} {rates} {'of plain':>8} {'of raw':>8} {'by CPU':>8} {'by CPU':>8}")
    print(*lines, sep="\n")
    print("\nplain raw  records read and left alone in a process that does nothing for its memory")
    print("raw        the same in this process, which keeps freed memory for reuse")
    print("of ...     videos read and parsed in a second / records read so, in turn")
    print("by CPU     the same two by CPU time, which other processes disturb less")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
