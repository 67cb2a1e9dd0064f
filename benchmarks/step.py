"""Training speed of each model: python -m benchmarks.step --help.

Each model trains in a process of its own on generated data. Then it repeats its step on one batch,
alternating with the matrix products of that step alone. Run it on an idle machine.
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
from trainer.models.registry import MODELS

# Videos per batch: as in the original's documentation, or fewer if a step takes seconds.
VIDEO_LEVEL_BATCH_SIZE = 1024
FRAME_LEVEL_BATCH_SIZE = 64
BATCH_SIZES = {"FrameLevelLogisticModel": 128, "DbofModel": 128, "LstmModel": 16, "GruModel": 16}
# Models that take steps.
TRAINED = [name for name, entry in MODELS.items() if not entry.closed_form]
TYPES = ("float32", "bfloat16")

COLUMNS = {
    "start": "seconds from the start of the process to the end of the first step",
    "videos/s": "videos per second, including reading and parsing",
    "waiting": "share of that time spent waiting for input",
    "products": "time of the matrix products alone / time of a step, on the same batch",
    "of CPU": "the same ratio of CPU times, which other processes disturb less",
    "x float32": "time of a step in float32 / time of this step",
    "memory": "peak memory of the process in training",
}


@dataclass(frozen=True)
class StepBenchmark:
    """Print the training speed of each model, and its ratio to that of its matrix products.

    Raises:
        UserError: unknown model or type.
    """

    models: str = flag(",".join(TRAINED), "Names of models, comma-separated.", "Benchmark")
    types: str = flag(
        ",".join(TYPES), "Types of the matrix products, comma-separated.", "Benchmark"
    )
    seconds: float = flag(10.0, "Seconds to train, and again to repeat a step.", "Benchmark")
    batch_size: int | None = flag(
        None, "Videos per batch; none: 1024, or fewer for frame-level models.", "Benchmark"
    )

    def __post_init__(self):
        for names, known in ((self.models, TRAINED), (self.types, TYPES)):
            for name in names.split(","):
                if name not in known:
                    raise UserError(f"Expected names out of {', '.join(known)}; got {name!r}.")


def measure(model: str, dtype: str, batch_size: int, seconds: float, started: float) -> dict:
    """Measure a row of the table, by column, in a new process that started at `started`."""
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
    del batches  # stop reading ahead
    functions = [_matrix_products(trainer, batch), _step(trainer, batch)]
    if dtype != "float32":
        functions.append(_step(_trainer(_config(model, "float32", batch_size)), batch))
    wall, cpu = _time_alternating(functions, seconds)
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
        **data_flags(MODELS[model].frame_level),
    )


def _trainer(config):
    import tensorflow as tf

    from trainer.training.step import Trainer

    return Trainer(config, tf.distribute.get_strategy())


def _batches(config):
    """Endless full batches."""
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
    """Videos per second, and the share of the time spent waiting for them."""
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
    """A function that runs a step and waits for its end."""
    return lambda: float(trainer.step(batch)["gradient_norm"])


def _matrix_products(trainer, batch) -> Callable[[], None]:
    import tensorflow as tf

    from benchmarks import products
    from trainer.data.records import MAX_FRAMES

    traced = tf.function(lambda: trainer.step(batch), autograph=False).get_concrete_function()
    return products.only(products.find(traced, iterations=MAX_FRAMES))


def _time_alternating(functions, seconds: float) -> tuple[list[float], list[float]]:
    """Medians of each function's wall and CPU time / the second function's."""
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
    """Wall time, and CPU time of all threads, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def _batch_size(model: str) -> int:
    if MODELS[model].frame_level:
        return BATCH_SIZES.get(model, FRAME_LEVEL_BATCH_SIZE)
    return BATCH_SIZES.get(model, VIDEO_LEVEL_BATCH_SIZE)


def main(argv: list[str]):
    """The command `python -m benchmarks.step`."""
    config = parse(StepBenchmark, ["benchmarks.step", *argv[1:]])
    for model in config.models.split(","):
        data_flags(MODELS[model].frame_level)  # generate the data before timing
    _print_row("", {name: name for name in COLUMNS})
    for model in config.models.split(","):
        batch_size = config.batch_size or _batch_size(model)
        for dtype in config.types.split(","):
            # A new process for each, to measure its own start and memory.
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
