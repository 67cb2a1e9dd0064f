"""Benchmark of batch prediction: python -m benchmarks.prediction

Prints examples per second of the bare forward pass, of a batch that is in memory; of reading,
parsing and the forward pass; and of writing predictions in each format, each also as a fraction of
the forward pass. The fastest of several rounds counts, because other work on the machine slows down
single rounds; examples per second of CPU time hardly depend on it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable

from benchmarks.validation import video_records
from trainer.config import TrainConfig
from trainer.data import input_pipeline
from trainer.data.input_pipeline import Position
from trainer.data.tfrecord import write_records
from trainer.models import registry
from trainer.run_dir import checkpoints
from trainer.serving import loading
from trainer.serving.options import FORMATS, PredictionOptions
from trainer.serving.prediction import predict_to_file

MODELS = ("LogisticModel", "MoeModel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=8192)
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data.tfrecord"
        write_records(data, video_records(flags.videos))
        for name in MODELS:
            model = loading.load(random_model(name, f"{folder}/{name}"))
            _compare(name, model, data, folder, flags)


def random_model(name: str, folder: str) -> str:
    """Save a model with random weights to a train_dir; return it."""
    features = {"feature_names": "mean_rgb,mean_audio", "feature_sizes": "1024,128"}
    config = TrainConfig(model=name, train_dir=folder, **features)
    variables = registry.variables(registry.create(config.model_flags))
    checkpoints.keep_model_flags(folder, config.model_flags)
    checkpoints.save(folder, variables, checkpoints.State(1, Position(), "", {}), 1)
    return folder


def _compare(name: str, model, data: str, folder: str, flags) -> None:
    batches = input_pipeline.batches([data], model.record_format, flags.batch_size, labels=False)
    in_memory = next(iter(batches))

    def forward():
        for _ in range(flags.videos // flags.batch_size):
            model.predict(in_memory).numpy()

    def read_and_forward():
        for batch in batches:
            model.predict(batch).numpy()

    def write(output_format: str) -> Callable:
        options = PredictionOptions(output_format, batch_size=flags.batch_size)
        return lambda: predict_to_file(model, [data], f"{folder}/{output_format}", options)

    tasks = {"forward pass": forward, "reading and forward pass": read_and_forward}
    tasks |= {f"predictions in {name}": write(name) for name in FORMATS}
    for task in tasks.values():  # build the graphs
        task()
    wall, cpu = dict.fromkeys(tasks, float("inf")), dict.fromkeys(tasks, float("inf"))
    for _ in range(flags.rounds):
        for task_name, task in tasks.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            task()
            wall[task_name] = min(wall[task_name], time.perf_counter() - started)
            cpu[task_name] = min(cpu[task_name], time.process_time() - cpu_started)
    print(f"\n{name}, {flags.videos:,} videos, batches of {flags.batch_size}:")
    print(f"{'':<26}{'examples/s':>12}{'':>6}{'per CPU second':>17}")
    for task_name in tasks:
        print(f"  {task_name:<24}", end="")
        for seconds, width in ((wall, 12), (cpu, 16)):
            ratio = seconds["forward pass"] / seconds[task_name]
            print(f"{flags.videos / seconds[task_name]:>{width},.0f} {ratio:>6.0%}", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
