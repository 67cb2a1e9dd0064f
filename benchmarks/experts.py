"""Specialization of RoutedExpertsModel: python -m benchmarks.experts --help.

Trains the mixture and its controls on parts of the training shards, evaluates all of them on the
evaluation shards, and analyzes the mixture's routing. Also measures how the speed depends on the
number of experts. Writes experts.md and experts.json to --output_dir.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.common import console, storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import without_traceback
from trainer.config import TrainConfig
from trainer.evaluation.routing import Routing, analyze

SHARDS = "../shared/data/yt8m2018/video/validate00"


@dataclass(frozen=True)
class ExpertsBenchmark:
    """Compare a mixture of whole networks with controls of equal cost."""

    train: str = flag(f"{SHARDS}[0-7]?.tfrecord", "Glob of the training shards.", "Benchmark")
    eval: str = flag(f"{SHARDS}[89]?.tfrecord", "Glob of the evaluation shards.", "Benchmark")
    vocabulary: str = flag(
        "../shared/data/vocabulary/yt8m2018.csv", "Vocabulary with Vertical1.", "Benchmark"
    )
    experts: int = flag(8, "Number of experts.", "Benchmark")
    picked: int = flag(2, "Experts picked per video.", "Benchmark")
    size: int = flag(256, "Size of an expert's hidden layer.", "Benchmark")
    fractions: str = flag("0.125,0.25,0.5,1", "Parts of the training shards.", "Benchmark")
    speed_experts: str = flag("4,16,64", "Numbers of experts to measure the speed of.", "Benchmark")
    output_dir: str = flag("build/experts", "Folder of the models and tables.", "Benchmark")
    flags: str = flag(
        "--feature_names=mean_rgb,mean_audio --feature_sizes=1024,128 --optimizer=AdamWOptimizer "
        "--base_learning_rate=0.001 --batch_size=512 --num_epochs=10 "
        "--learning_rate_schedule=cosine --ema_decay=0.99 --mixed_precision",
        "Flags of the trainer, separated by spaces.",
        "Benchmark",
    )


def variants(config: ExpertsBenchmark) -> dict[str, dict]:
    """Model flags of the mixture and its controls."""
    mixture = {
        "routed_experts": config.experts,
        "routed_experts_picked": config.picked,
        "routed_expert_size": config.size,
    }
    one = {"routed_experts": 1, "routed_experts_picked": 1}
    return {
        "mixture": mixture,
        "random routing": mixture | {"routed_random": True},
        "dense, equal active size": one | {"routed_expert_size": config.size * config.picked},
        "dense, equal total size": one | {"routed_expert_size": config.size * config.experts},
    }


def train_config(config: ExpertsBenchmark, flags: dict, files: list[str], name: str) -> TrainConfig:
    """The trainer's flags of a variant."""
    argv = [f"--{flag}={value}" for flag, value in flags.items()]
    folder = Path(config.output_dir) / name.replace(", ", "-").replace(" ", "-")
    files = [f"--train_data_pattern={','.join(files)}", f"--train_dir={folder}"]
    argv = ["--model=RoutedExpertsModel", *config.flags.split(), *argv, *files]
    return parse(TrainConfig, ["benchmarks.experts", *argv])


def evaluate(train_dir: str, pattern: str) -> dict:
    """GAP, Hit@1 and mAP of a model."""
    from trainer.evaluation import evaluator

    metrics = evaluator.evaluate(train_dir, pattern).metrics
    return {name: metrics[name] for name in ("gap", "hit_at_1", "map", "loss")}


def analyze_model(train_dir: str, config: ExpertsBenchmark) -> tuple[Routing, dict]:
    """The routing of a mixture on the evaluation videos, and the GAP of other choices of experts.

    The choices: the router's; the next most probable experts; random ones; all, with equal weights;
    and the single expert with the lowest loss on each video, which no router can know.
    """
    import tensorflow as tf

    from trainer.data import input_pipeline
    from trainer.evaluation.metrics import GlobalAveragePrecision, top_predictions
    from trainer.models.layers import unit_features
    from trainer.serving import loading
    from trainer.training import losses

    model, flags, _ = loading.restore(train_dir)
    num_classes, num_experts = flags["num_classes"], flags["routed_experts"]
    picked = flags["routed_experts_picked"]
    verticals = _verticals(config.vocabulary, num_classes)
    names = ("router", "next experts", "random experts", "all experts", "best in hindsight")
    gaps = {name: GlobalAveragePrecision(num_classes) for name in names}
    rng = np.random.default_rng(0)
    rows = []
    batches = input_pipeline.batches(storage.glob(config.eval), loading.record_format(flags), 512)
    for batch in batches:
        vectors = unit_features(batch["features"], model.sizes)
        routed = vectors / vectors.shape[1] ** 0.5
        probabilities = model.router.probabilities(routed).numpy()
        each = np.stack(  # [experts, videos, classes]
            [
                model.mixture(vectors, tf.one_hot([e] * len(vectors), num_experts)).numpy()
                for e in range(num_experts)
            ]
        )
        multi_hot = losses.multi_hot(batch["labels"], num_classes)
        expert_losses = np.stack(
            [losses.cross_entropy(multi_hot, tf.constant(p)).numpy() for p in each], axis=1
        )
        order = (-probabilities).argsort(axis=1)
        second = order[:, picked : 2 * picked]
        random = rng.random(probabilities.shape).argsort(axis=1)[:, :picked]
        best = expert_losses.argmin(axis=1)[:, None]
        weights = {
            "router": model.router(routed).numpy(),
            "next experts": _one_hot(second, num_experts) * probabilities,
            "random experts": _one_hot(random, num_experts),
            "all experts": np.ones_like(probabilities),
            "best in hindsight": _one_hot(best, num_experts),
        }
        for name, weight in weights.items():
            weight = (weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30)).T
            mixed = np.einsum("ev,evc->vc", weight.astype(np.float32), each)
            gaps[name].add(top_predictions(mixed, batch["labels"]))
        labels = batch["labels"].numpy()
        lowest = np.where(labels < 0, num_classes, labels).min(axis=1)
        rows.append((probabilities, expert_losses, np.append(verticals, -1)[lowest]))
    routing = analyze(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    return routing, {name: gap.result() for name, gap in gaps.items()}


def _one_hot(indices, size):
    result = np.zeros([len(indices), size])
    np.put_along_axis(result, indices, 1, axis=1)
    return result


def _verticals(path: str, num_classes: int) -> np.ndarray:
    """[num_classes] int: number of the vertical of each class; the class itself without a file."""
    import csv

    if not Path(path).exists():
        return np.arange(num_classes)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["Vertical1"] for row in rows})
    result = np.full(num_classes, -1)
    for row in rows:
        result[int(row["Index"])] = names.index(row["Vertical1"])
    return result


def speed(config: ExpertsBenchmark, num_experts: int, seconds: float = 5.0) -> float:
    """Videos per second of prediction with `num_experts`, on random videos and random routing."""
    import tensorflow as tf

    from trainer.models import registry

    flags = variants(config)["random routing"] | {"routed_experts": num_experts}
    flags = train_config(config, flags, ["none"], "speed").model_flags
    model = registry.create(flags)
    predict = tf.function(lambda inputs: registry.predict(model, inputs))
    width = sum(int(size) for size in flags["feature_sizes"].split(","))
    inputs = {"features": tf.random.stateless_normal([1024, width], [0, 0])}
    predict(inputs)
    started, num_videos = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        predict(inputs).numpy()
        num_videos += 1024
    return num_videos / (time.monotonic() - started)


def report(curve: list[dict], routing: Routing, swaps: dict, speeds: dict) -> str:
    """The results as Markdown."""
    lines = ["| part of the training shards | model | GAP | Hit@1 | mAP |", "|" + " --- |" * 5]
    lines += [
        f"| {r['fraction']:g} | {r['model']} | {r['gap']:.4f} | {r['hit_at_1']:.4f} | "
        f"{r['map']:.4f} |"
        for r in curve
    ]
    lines += ["", "| experts that answer | GAP |", "| --- | --- |"]
    lines += [f"| {name} | {gap:.4f} |" for name, gap in swaps.items()]
    lines += [
        "",
        f"Load per expert: {', '.join(f'{share:.2f}' for share in routing.load)} "
        f"(entropy {routing.load_entropy:.2f} bits). Certainty of the router: "
        f"{routing.certainty:.2f} bits. Mutual information of regime and vertical: "
        f"{routing.information:.2f} bits, {routing.shuffled_information:.2f} shuffled. Regimes in "
        f"which their own expert has the lowest loss: {routing.diagonal_wins:.0%}.",
        "",
        "| regime | " + " | ".join(f"expert {e + 1}" for e in range(len(routing.load))) + " |",
        "|" + " --- |" * (len(routing.load) + 1),
    ]
    lines += [
        f"| {regime + 1} | " + " | ".join(f"{loss:.2f}" for loss in row) + " |"
        for regime, row in enumerate(routing.loss)
    ]
    lines += ["", "| experts | videos/s |", "| --- | --- |"]
    lines += [f"| {number} | {rate:,.0f} |" for number, rate in speeds.items()]
    return "\n".join(lines) + "\n"


def main(argv: list[str]):
    """Run `python -m benchmarks.experts`."""
    config = parse(ExpertsBenchmark, ["benchmarks.experts", *argv[1:]])
    console.set_up()
    from trainer.training import loop

    files = storage.glob(config.train)
    curve = []
    for fraction in map(float, config.fractions.split(",")):
        part = files[: max(round(len(files) * fraction), 1)]
        for name, flags in variants(config).items():
            trained = train_config(config, flags, part, f"{name}-{fraction:g}")
            loop.train(trained)
            metrics = evaluate(trained.train_dir, config.eval)
            curve.append({"fraction": fraction, "model": name, **metrics})
            print(f"{fraction:g} | {name} | GAP: {metrics['gap']:.4f}", flush=True)
    mixture = train_config(config, {}, part, f"mixture-{fraction:g}").train_dir
    routing, swaps = analyze_model(mixture, config)
    speeds = {number: speed(config, int(number)) for number in config.speed_experts.split(",")}
    folder = Path(config.output_dir)
    text = report(curve, routing, swaps, speeds)
    (folder / "experts.md").write_text(text)
    content = asdict(routing) | {"load": routing.load.tolist(), "loss": routing.loss.tolist()}
    content |= {"curve": curve, "swaps": swaps, "videos_per_second": speeds}
    (folder / "experts.json").write_text(json.dumps(content, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
