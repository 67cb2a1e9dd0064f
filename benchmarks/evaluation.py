"""Benchmark of the evaluation: python -m benchmarks.evaluation --help.

Compares an evaluation with the bare forward pass on one batch, and a paired evaluation with both
forward passes and one read. Then measures the bootstrap on generated predictions. CPU times are of
the whole process; other processes disturb them less than wall time.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.data import data_flags
from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import without_traceback

NUM_CLASSES, TOP_K, LABELS_PER_VIDEO = 3862, 20, 3


@dataclass(frozen=True)
class EvaluationBenchmark:
    """Compare the throughput of evaluation with that of the forward pass; time the bootstrap."""

    models: str = flag("LogisticModel,MoeModel", "Names of models, comma-separated.", "Benchmark")
    batch_size: int = flag(1024, "Videos per batch.", "Benchmark")
    bootstrap_videos: int = flag(1_000_000, "Videos of the bootstrap; 0: none.", "Benchmark")
    replicates: int = flag(10, "Replicates to time.", "Benchmark")


@dataclass(frozen=True)
class Seconds:
    """Duration of a call."""

    wall: float
    cpu: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)


def seconds(function: Callable) -> Seconds:
    """Call a function and return its duration."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def measure(name: str, batch_size: int) -> str:
    """Return the result lines for one model."""
    from trainer.common import storage
    from trainer.config import TrainConfig
    from trainer.data import input_pipeline
    from trainer.evaluation import evaluator
    from trainer.serving import loading
    from trainer.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            model=name, train_dir=folder, batch_size=batch_size, max_steps=2, **data_flags(False)
        )
        train(config)
        model = loading.load(folder)
        files = storage.glob(config.train_data_pattern)
        batches = input_pipeline.batches(files, model.record_format, batch_size, 8)
        batch = next(iter(batches))
        num_videos = sum(len(each["id"]) for each in batches)
        num_batches = -(-num_videos // batch_size)
        model.predict(batch)

        def forward():
            for _ in range(num_batches):
                model.predict(batch)[0, 0].numpy()

        def read():
            for _ in batches:
                pass

        def evaluate_one():
            evaluator.evaluate_models([model], files, batch_size)

        def evaluate_two():
            evaluator.evaluate_models([model, model], files, batch_size)

        evaluate_one()  # traces functions
        of_read, of_forward = seconds(read), seconds(forward)
        of_one, of_two = seconds(evaluate_one), seconds(evaluate_two)
    return "\n".join(
        [
            f"{name}: {num_videos:,} videos",
            f"  forward pass   {num_videos / of_forward.wall:10,.0f} videos/s",
            f"  evaluation     {num_videos / of_one.wall:10,.0f} videos/s, "
            f"{of_forward.wall / of_one.wall:.0%} of the forward pass "
            f"({of_forward.cpu / of_one.cpu:.0%} by CPU time)",
            f"  two models     {_ratio(of_two, of_forward + of_forward + of_read)} "
            "the time of two forward passes and one read",
        ]
    )


def _ratio(time: Seconds, reference: Seconds) -> str:
    return f"{time.wall / reference.wall:.2f} x ({time.cpu / reference.cpu:.2f} x by CPU time)"


def generated_evaluation(num_videos: int, seed: int):
    """An Evaluation of generated predictions; the labels are the same for every seed."""
    from trainer.evaluation.evaluator import Evaluation
    from trainer.evaluation.predictions import Predictions, Videos

    labels_rng, rng = np.random.default_rng(0), np.random.default_rng(seed)
    shape = num_videos, LABELS_PER_VIDEO
    # Frequencies fall with the class id, as in the data set.
    labels = (NUM_CLASSES * labels_rng.random(shape, np.float32) ** 4).astype(np.int32)
    classes = (NUM_CLASSES * rng.random((num_videos, TOP_K), np.float32) ** 4).astype(np.int16)
    classes[:, :2] = labels[:, :2]
    hits = (classes[:, :, None] == labels[:, None, :]).any(axis=2)
    scores = -np.sort(-rng.random((num_videos, TOP_K), np.float32), axis=1)
    videos = Videos(
        ids=np.zeros(num_videos, "S4"),
        num_frames=np.zeros(num_videos, np.int32),
        label_videos=np.repeat(np.arange(num_videos, dtype=np.int32), LABELS_PER_VIDEO),
        label_classes=labels.ravel(),
        num_labels=np.full(num_videos, LABELS_PER_VIDEO, np.int32),
    )
    losses = np.zeros(num_videos, np.float32)
    predictions = Predictions(scores, classes, hits, hits[:, :3].mean(axis=1), losses)
    metrics = dict.fromkeys(("gap", "map", "hit_at_1", "perr"), 0.5)
    num_positives = np.bincount(labels.ravel(), minlength=NUM_CLASSES)
    return Evaluation(metrics, np.zeros(NUM_CLASSES), num_positives, {}, 1, [], videos, predictions)


def measure_bootstrap(num_videos: int, replicates: int) -> str:
    """Return the result line for the bootstrap of two models."""
    from trainer.evaluation.bootstrap import NUM_REPLICATES
    from trainer.evaluation.comparison import compare
    from trainer.evaluation.slices import by_num_labels

    pair = [generated_evaluation(num_videos, seed) for seed in (1, 2)]
    slicings = [by_num_labels(pair[0].videos)]
    once = seconds(lambda: compare(*pair, slicings, num_replicates=1))
    many = seconds(lambda: compare(*pair, slicings, num_replicates=1 + replicates))
    each = Seconds((many.wall - once.wall) / replicates, (many.cpu - once.cpu) / replicates)
    total = once.wall + (NUM_REPLICATES - 1) * each.wall
    return (
        f"bootstrap of 2 models, {num_videos:,} videos, 4 metrics and 1 slicing: "
        f"{once.wall:.1f} s to sort, {each.wall:.2f} s per replicate ({each.cpu:.2f} s CPU); "
        f"{total / 60:.1f} min for {NUM_REPLICATES} replicates"
    )


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(EvaluationBenchmark, argv)
        console.set_up()
        for name in config.models.split(","):
            print(measure(name, config.batch_size), flush=True)
        if config.bootstrap_videos:
            print(measure_bootstrap(config.bootstrap_videos, config.replicates))


if __name__ == "__main__":
    main(sys.argv)
