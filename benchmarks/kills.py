"""Kill training at random moments and resume it: python -m benchmarks.kills --help.

A small run is killed with SIGKILL and resumed by the same command until it ends, as often as needed
for the number of kills, at video and at frame level. Prints how many variables differ, bit for bit,
from those of a run that nobody killed.
"""

import dataclasses
import logging
import multiprocessing
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer import train as command
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.config import TrainConfig
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.tfrecord import write_records

SMALL = {
    "feature_names": "rgb,audio",
    "feature_sizes": "3,2",
    "num_classes": 5,
    "batch_size": 8,
    "num_readers": 2,
    "num_epochs": 200,
    "checkpoint_minutes": 0.002,
}
LEVELS = {
    "video level": {"model": "MoeModel"},
    "frame level": {
        "model": "DbofModel",
        "frame_features": True,
        "iterations": 5,
        "dbof_cluster_size": 6,
        "dbof_hidden_size": 5,
    },
}


@dataclass(frozen=True)
class KillsBenchmark:
    """Count the variables that differ after kills at random moments."""

    num_kills: int = flag(200, "Number of kills, half of them at each level.", "Benchmark")
    seed: int = flag(0, "Random seed of the moments.", "Benchmark")
    max_seconds: float = flag(5.0, "Longest time from a start to a kill.", "Benchmark")


def write_shards(folder: Path, frame_level: bool) -> str:
    """Write three small shards, and return their glob."""
    rng = np.random.default_rng(1)
    for shard in range(3):
        records = []
        for number in range(20):
            context = {"id": f"{shard}-{number}", "labels": [number % 5]}
            if frame_level:
                frames = rng.integers(0, 256, [rng.integers(1, 30), 5]).astype(np.uint8)
                lists = {"rgb": frames[:, :3], "audio": frames[:, 3:]}
                records.append(encode_sequence_example(context, lists))
            else:
                vector = rng.normal(size=5)
                features = {"rgb": vector[:3], "audio": vector[3:]}
                records.append(encode_example(context | features))
        write_records(str(folder / f"train{shard}.tfrecord"), records)
    return str(folder / "train*.tfrecord")


def count_differences(folder: Path, level: str, config: KillsBenchmark) -> tuple[int, int]:
    """Return the number of kills and of variables that differ at the ends of the killed runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.train", "trainer.training.loop"])
    rng = np.random.default_rng(config.seed)
    flags = SMALL | LEVELS[level]
    pattern = write_shards(folder, "frame_features" in flags)
    train = TrainConfig(**flags, train_data_pattern=pattern, train_dir=str(folder / "whole"))
    _run(context, train)
    expected = _variables(train.train_dir)
    kills = different = runs = 0
    while kills < config.num_kills // 2:
        runs += 1
        killed = dataclasses.replace(train, train_dir=str(folder / f"killed-{runs}"))
        while kills < config.num_kills // 2 and _run(
            context, killed, rng.uniform(0.2, config.max_seconds)
        ):
            kills += 1
            print(f"\r{level}: {kills} kills", end="", file=sys.stderr, flush=True)
        _run(context, killed)
        found = _variables(killed.train_dir)
        different += sum(
            name not in found or found[name].tobytes() != value.tobytes()
            for name, value in expected.items()
        )
    print(file=sys.stderr)
    return kills, different


def _run(context, config: TrainConfig, kill_after: float | None = None) -> bool:
    """Run the command; return whether it was killed before its end."""
    defaults = TrainConfig()
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    flags = [f"--{n}={v}" for n, v in values.items() if v != getattr(defaults, n)]
    process = context.Process(target=_train, args=(["trainer/train.py", *flags],))
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise UserError(f"The trainer ended with exit code {process.exitcode}.")
    return process.exitcode != 0


def _train(argv: list[str]):
    logging.disable()
    command.main(argv)


def _variables(train_dir: str) -> dict[str, np.ndarray]:
    import tensorflow as tf

    newest = max((Path(train_dir) / "checkpoints").glob("step-*"))
    reader = tf.train.load_checkpoint(str(newest / "variables"))
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return {name: reader.get_tensor(name) for name in sorted(names)}


def main(argv: list[str]):
    """Run `python -m benchmarks.kills`."""
    config = parse(KillsBenchmark, ["benchmarks.kills", *argv[1:]])
    total = 0
    for level in LEVELS:
        with tempfile.TemporaryDirectory() as folder:
            kills, different = count_differences(Path(folder), level, config)
        print(f"{level}: {kills} kills, {different} variables differ", flush=True)
        total += different
    if total:
        raise SystemExit(1)


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
