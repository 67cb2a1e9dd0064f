"""How fast each model trains: python -m benchmarks.step --help.

A model trains in a process of its own on generated data. Then it repeats its step on one batch, in
turn with the bare matrix products of that step. Run it where nothing else runs.
"""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.data import data_flags, training_shards
from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback

# Videos a batch: as the original's documentation trains them, or fewer where a step takes seconds.
BATCH_SIZES = {
    "LogisticModel": 1024,
    "MoeModel": 1024,
    "FrameLevelLogisticModel": 128,
    "DbofModel": 128,
    "NetVladModel": 64,
    "NeXtVladModel": 64,
    "AttentionModel": 64,
    "LstmModel": 16,
    "GruModel": 16,
}
VIDEO_LEVEL_MODELS = ("LogisticModel", "MoeModel")
TYPES = ("float32", "bfloat16")

COLUMNS = {
    "start": "seconds from the start of the process to the end of the first step",
    "videos/s": "trained on, with reading and parsing",
    "waiting": "share of that time in which training waits for its input",
    "products": "time of the bare matrix products / time of a step, on the same batch in turn",
    "of CPU": "the same of CPU time, which other processes disturb less",
    "x float32": "time of the same step in float32 / time of the step, in turn",
    "memory": "most that the process held in training",
}


@dataclass(frozen=True)
class StepBenchmark:
    """Prints, for each model, how fast it trains and how near that is to its matrix products.

    Raises:
        UserError: there is no such model or type.
    """

    models: str = flag(",".join(BATCH_SIZES), "Which models, comma-separated.", "Benchmark")
    types: str = flag(",".join(TYPES), "Of the matrix products, comma-separated.", "Benchmark")
    seconds: float = flag(10.0, "How long to train, and again to repeat a step.", "Benchmark")
    batch_size: int | None = flag(
        None, "Videos a batch; none: 1024, and fewer for frame-level models.", "Benchmark"
    )

    def __post_init__(self):
        for names, known in ((self.models, BATCH_SIZES), (self.types, TYPES)):
            for name in names.split(","):
                if name not in known:
                    raise UserError(f"Expected names out of {', '.join(known)}; got {name!r}.")


def measure(model: str, dtype: str, batch_size: int, seconds: float, started: float) -> dict:
    """A line of the table, by column. To be called in a new process, which began at `started`."""
    console.set_up()

    config = _config(model, dtype, batch_size)
    trainer, batches = _trainer(config), _batches(config)
    trainer.step(next(batches))
    start = time.time() - started
    for _ in range(2):
        trainer.step(next(batches))
    videos_a_second, waiting = _train(trainer, batches, seconds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    batch = next(batches)
    del batches  # which would go on reading ahead
    functions = [_bare_products(trainer, batch), _step(trainer, batch)]
    if dtype != "float32":
        functions.append(_step(_trainer(_config(model, "float32", batch_size)), batch))
    wall, cpu = _time_in_turn(functions, seconds)
    return {
        "start": f"{start:.1f} s",
        "videos/s": f"{videos_a_second:,.{0 if videos_a_second >= 100 else 1}f}",
        "waiting": f"{waiting:.1%}",
        "products": f"{wall[0]:.1%}",
        "of CPU": f"{cpu[0]:.1%}",
        "x float32": f"{wall[2]:.2f}" if dtype != "float32" else "",
        "memory": f"{memory:.2f} GB",
    }


def _config(model, dtype, batch_size):
    from trainer.config import TrainConfig

    return TrainConfig(
        model=model,
        batch_size=batch_size,
        mixed_precision=dtype == "bfloat16",
        num_epochs=10**6,
        **data_flags(model not in VIDEO_LEVEL_MODELS),
    )


def _trainer(config):
    import tensorflow as tf

    from trainer.training.step import Trainer

    return Trainer(config, tf.distribute.get_strategy())


def _batches(config):
    """Batches without end, all of them full."""
    from trainer.data import input_pipeline

    batches = input_pipeline.training_batches(
        training_shards(config),
        config.record_format,
        config.batch_size,
        config.num_epochs,
        config.num_readers,
        config.seed,
    )
    return (batch for batch, _ in batches if len(batch["labels"]) == config.batch_size)


def _train(trainer, batches, seconds: float) -> tuple[float, float]:
    """Videos a second, and the share of the time spent waiting for them."""
    videos, waited, began = 0, 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        _step(trainer, batch)()
        videos += len(batch["labels"])
    took = time.perf_counter() - began
    return videos / took, waited / took


def _step(trainer, batch) -> Callable[[], float]:
    """A function that does a step and waits for its end."""
    return lambda: float(trainer.step(batch)["gradient_norm"])


def _bare_products(trainer, batch) -> Callable[[], None]:
    import tensorflow as tf

    from benchmarks import products
    from trainer.data.records import MAX_FRAMES

    traced = tf.function(lambda: trainer.step(batch), autograph=False).get_concrete_function()
    return products.alone(products.find(traced, iterations=MAX_FRAMES))


def _time_in_turn(functions, seconds: float) -> tuple[list[float], list[float]]:
    """Each function's time / the second function's, by the clock and in CPU time: medians."""
    for function in functions:
        function()
    rounds, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds or len(rounds) < 3:
        rounds.append([_time(function) for function in functions])
    walls, cpus = (
        [[one / times[1][clock] for one in (time[clock] for time in times)] for times in rounds]
        for clock in (0, 1)
    )
    return _medians(walls), _medians(cpus)


def _medians(rows: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _time(function) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str]):
    """The command `python -m benchmarks.step`."""
    config = parse(StepBenchmark, ["benchmarks.step", *argv[1:]])
    for model in config.models.split(","):
        data_flags(model not in VIDEO_LEVEL_MODELS)  # made before anything is timed
    _print_row("", {name: name for name in COLUMNS})
    for model in config.models.split(","):
        batch_size = config.batch_size or BATCH_SIZES[model]
        for dtype in config.types.split(","):
            # A process each, for its memory and its start to be its own.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                arguments = (model, dtype, batch_size, config.seconds, time.time())
                _print_row(f"{model} {dtype} {batch_size}", pool.apply(measure, arguments))
    print()
    for name, meaning in COLUMNS.items():
        print(f"{name:10} {meaning}")


def _print_row(title: str, row: dict):
    print(f"{title:38}", *(f"{row[name]:>10}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
