"""Benchmark of the input pipeline: python -m benchmarks.reading --help.

Compares the trainer's input pipeline with reading the same raw records, in this process and in one
without the allocator settings of trainer/common/memory.py.
"""

import multiprocessing
import resource
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
    """Compare the throughput of the input pipeline with that of raw records."""

    rounds: int = flag(5, "Passes over the records per method.", "Benchmark")
    num_readers: int = flag(8, "Number of files read in parallel.", "Benchmark")


def measure(frame_features: bool, batch_size: int, config: ReadingBenchmark) -> str:
    """Return the result line for one kind of records."""
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
        plain.apply(_time_raw, raw)  # warm-up, which loads TensorFlow
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
    """Return wall-clock and CPU seconds (all threads) of one pass."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in dataset:
        pass
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str]):
    """Run `python -m benchmarks.reading`."""
    config = parse(ReadingBenchmark, ["benchmarks.reading", *argv[1:]])
    console.set_up()
    lines = [measure(False, 1024, config), measure(True, 128, config)]
    rates = f"{'plain raw, /s':>12} {'raw, /s':>11} {'videos/s':>12} {'MB/s':>8}"
    print(f"{'':12} {rates} {'of plain':>8} {'of raw':>8} {'by CPU':>8} {'by CPU':>8}")
    print(*lines, sep="\n")
    print("\nplain raw  raw records, in a process with default allocator settings")
    print("raw        raw records, in this process, which reuses freed memory")
    print("of ...     throughput of the input pipeline relative to it")
    print("by CPU     the same by CPU time, which depends less on other processes")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\npeak memory of this process: {memory:.2f} GB")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
