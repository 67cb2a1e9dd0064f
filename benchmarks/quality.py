"""Quality of the recipes: python -m benchmarks.quality --help, or `make quality`.

Trains each recipe of trainer/recipes with each seed on the training shards, in a process of its
own, exports it, and evaluates it on other shards. Writes to --output_dir:

    table.md, table.csv  a row per recipe
    seeds.csv            a row per recipe and seed
    looks.csv            a row per evaluation ever made there: how often the evaluation shards were
                         looked at; choose recipes on a part of the training shards instead
    gap.png, strata.png, reliability.png

A recipe that was trained already is not trained again, unless its flags or the shards changed.
"""

import csv
import datetime
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer import recipe
from trainer.common import console
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.evaluation.metrics import METRICS, RankedPredictions, average_precision

SHARDS = "../shared/data/yt8m2018/video/validate00"
STRATA = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20-99": (20, 99), "100+": (100, 10**9)}
NUM_RESAMPLES = 500
NUM_BINS = 20


@dataclass(frozen=True)
class QualityBenchmark:
    """Train recipes, and compare them on the same evaluation shards.

    Raises:
        UserError: unknown recipe.
    """

    recipes: str = flag(
        "logistic,moe,mlp,kernel,best", "Names of recipes, comma-separated.", "Benchmark"
    )
    baseline: str = flag("moe", "Recipe that the others are compared with.", "Benchmark")
    train: str = flag(f"{SHARDS}[0-7]?.tfrecord", "Glob of the training shards.", "Benchmark")
    eval: str = flag(f"{SHARDS}[89]?.tfrecord", "Glob of the evaluation shards.", "Benchmark")
    seeds: int = flag(3, "Number of seeds, of the weights and of the order.", "Benchmark")
    output_dir: str = flag("build/quality", "Folder of the trained models and tables.", "Benchmark")
    flags: str = flag("", "Further flags of the trainer, separated by spaces.", "Benchmark")

    def __post_init__(self):
        for name in self.recipes.split(","):
            if name not in recipe.names():
                raise UserError(f"--recipes must be out of {recipe.names()}; got {name!r}.")


@dataclass(frozen=True, eq=False)
class Result:
    """A recipe trained with one seed.

    Attributes:
        metrics: name -> value.
        predictions: RankedPredictions.result() of the evaluation videos, of the 20 highest each.
        bins: [NUM_BINS, 2] float64, mean probability and fraction of hits of equally large groups
            of predictions.
    """

    metrics: dict
    predictions: tuple
    bins: np.ndarray


def measure(name: str, seed: int, config: QualityBenchmark) -> Result:
    """Train a recipe with a seed, if that was not done before, and evaluate it."""
    files = {word for stage in recipe.stages(name) for word in stage if word.endswith(".flags")}
    texts = [(recipe.FOLDER / file).read_text() for file in sorted(files)]
    inputs = json.dumps([recipe.stages(name), texts, config.train, config.flags])
    key = hashlib.sha256(inputs.encode()).hexdigest()[:8]
    folder = Path(config.output_dir) / f"{name}-{key}" / f"seed-{seed}"
    seconds = _train(name, seed, folder, config)
    return _evaluate(folder, seconds, config)


def _train(name: str, seed: int, folder: Path, config: QualityBenchmark) -> float:
    """Train, and return how many seconds it took, over all interruptions."""
    record = folder / "seconds.json"
    if record.exists():
        return json.loads(record.read_text())
    started = time.monotonic()
    command = [sys.executable, "-m", "trainer.recipe", f"--recipe={name}", f"--seed={seed}"]
    command += [f"--train_data_pattern={config.train}", f"--train_dir={folder}"]
    if subprocess.run([*command, f"--trainer_flags={config.flags}"]).returncode:
        raise UserError(f"Training of the recipe {name} failed; see the messages above.")
    seconds = time.monotonic() - started
    record.write_text(json.dumps(seconds))
    return seconds


def _evaluate(folder: Path, seconds: float, config: QualityBenchmark) -> Result:
    import tensorflow as tf

    from trainer.common import storage
    from trainer.data import input_pipeline
    from trainer.evaluation.metrics import MetricCollection, top_predictions
    from trainer.models import registry
    from trainer.serving import loading, saved_model

    exported = folder / "exported"
    if not exported.exists():
        saved_model.export(str(folder), str(exported))
    model, flags, _ = loading.restore(str(folder))
    fields = loading.record_format(flags)
    num_classes = flags["num_classes"]

    @tf.function(reduce_retracing=True)
    def both(inputs):
        outputs = registry.call(model, inputs, training=False)
        return registry.uncalibrated(model, outputs), registry.probabilities(model, outputs)

    metrics, before = MetricCollection(num_classes), RankedPredictions(num_classes)
    after = RankedPredictions(num_classes)
    batches = list(input_pipeline.batches(storage.glob(config.eval), fields, 1024))
    for batch in batches:
        uncalibrated, predictions = both(input_pipeline.model_inputs(batch))
        before.add(top_predictions(uncalibrated, batch["labels"]))
        top = top_predictions(predictions, batch["labels"])
        metrics.add(top)
        after.add(top)
    scores, classes, hits = after.result()
    train_counts = _count_labels(config.train, fields)
    values = metrics.result()
    for stratum, (least, most) in STRATA.items():
        chosen = (train_counts >= least) & (train_counts <= most)
        values[f"gap_{stratum}"] = _gap_of(chosen, after)
    bins = reliability(scores, hits)
    first = before.result()
    values |= {
        "gap_uncalibrated": _gap_of(np.ones(num_classes, bool), before),
        "ece_uncalibrated": expected_calibration_error(reliability(first[0], first[2])),
        "ece": expected_calibration_error(bins),
        "parameters": sum(int(np.prod(v.shape)) for v in registry.variables(model).values()),
        "training_minutes": seconds / 60,
        "export_mb": sum(f.stat().st_size for f in exported.rglob("*") if f.is_file()) / 1e6,
        "videos_per_second": _speed(loading.load(str(exported)), batches),
    }
    return Result(values, (scores, classes, hits, after.num_positives.sum()), bins)


def _speed(model, batches: list, seconds: float = 5.0) -> float:
    """Videos per second of the exported model, without reading, in batches of 1024."""
    model.predict(batches[0])
    started, num_videos = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        model.predict(batches[0]).numpy()
        num_videos += len(batches[0]["labels"])
    return num_videos / (time.monotonic() - started)


def _count_labels(pattern: str, record_format) -> np.ndarray:
    """[num_classes] int: number of training videos with each class."""
    from trainer.common import storage
    from trainer.data import input_pipeline

    counts = np.zeros(record_format.num_classes, np.int64)
    for batch in input_pipeline.batches(storage.glob(pattern), record_format, 1024):
        labels = batch["labels"].numpy()
        counts += np.bincount(labels[labels >= 0], minlength=len(counts))
    return counts


def _gap_of(chosen: np.ndarray, predictions: RankedPredictions) -> float:
    """GAP of the predictions and labels of some classes, [num_classes] bool."""
    scores, classes, hits = predictions.result()
    kept = chosen[classes]
    num_positives = predictions.num_positives[chosen].sum(keepdims=True)
    one_list = np.zeros(kept.sum(), np.int64)
    return float(average_precision(scores[kept], hits[kept], one_list, num_positives)[0])


def reliability(scores: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """[NUM_BINS, 2] float64: mean score and fraction of hits of equally large groups by score.

    Example:
        >>> reliability(np.array([0.2] * 10 + [0.8] * 10), np.array([0] * 10 + [1] * 10))[[0, -1]]
        array([[0.2, 0. ],
               [0.8, 1. ]])
    """
    order = np.argsort(scores, kind="stable")
    groups = np.array_split(order, NUM_BINS)
    return np.array([[scores[group].mean(), hits[group].mean()] for group in groups], np.float64)


def expected_calibration_error(bins: np.ndarray) -> float:
    """Mean difference of probability and fraction of hits over the groups of `reliability`."""
    return float(np.abs(bins[:, 0] - bins[:, 1]).mean())


def bootstrap_difference(predictions: tuple, baseline: tuple, top_k: int = 20) -> tuple:
    """95% interval of the difference in GAP of two models, by resampling the videos.

    Args:
        predictions: scores, classes and hits, [videos * top_k], and the number of positives.
        baseline: the same of another model, for the same videos in the same order.

    Returns:
        Lower and upper bound.
    """
    rng = np.random.default_rng(0)
    num_videos = len(predictions[0]) // top_k
    models = [_sorted(each, top_k) for each in (predictions, baseline)]
    differences = []
    for _ in range(NUM_RESAMPLES):
        weights = np.bincount(rng.integers(0, num_videos, num_videos), minlength=num_videos)
        new, old = (_weighted_gap(weights, *model) for model in models)
        differences.append(new - old)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def _sorted(predictions, top_k):
    """Video and hit of each prediction by descending score, and hits per positive."""
    scores, _, hits, num_positives = predictions
    order = np.argsort(-scores, kind="stable")
    return order // top_k, hits[order].astype(np.float64), hits.sum() / num_positives


def _weighted_gap(weights, videos, hits, recall):
    """GAP with weights per video. The share of positives found is that of all videos."""
    weights = weights[videos].astype(np.float64)
    weighted_hits = weights * hits
    precision = np.cumsum(weighted_hits) / np.maximum(np.cumsum(weights), 1e-9)
    return recall * (weighted_hits * precision).sum() / max(weighted_hits.sum(), 1e-9)


TITLES = {name: metric.title for name, metric in METRICS.items()} | {
    "gap_uncalibrated": "GAP uncalibrated",
    "ece_uncalibrated": "ECE uncalibrated",
    "ece": "ECE",
    "parameters": "parameters",
    "training_minutes": "training, min",
    "export_mb": "export, MB",
    "videos_per_second": "videos/s",
}


def row(name: str, results: list[Result], baseline: list[Result] | None) -> dict:
    """Return the table row of a recipe: means over the seeds, and the range of GAP."""
    means = {key: np.mean([r.metrics[key] for r in results]) for key in results[0].metrics}
    gaps = [result.metrics["gap"] for result in results]
    means["gap_range"] = f"{min(gaps):.4f}-{max(gaps):.4f}"
    if baseline:
        pairs = zip(results, baseline, strict=False)
        bounds = [bootstrap_difference(new.predictions, old.predictions) for new, old in pairs]
        low, high = np.mean(bounds, axis=0)
        means["gap_difference"] = f"{low:+.4f} to {high:+.4f}"
    return {"recipe": name, "seeds": len(results), **means}


def markdown(rows: list[dict]) -> str:
    """Return the rows as a Markdown table."""
    titles = {"recipe": "recipe", **TITLES, "gap_range": "GAP of the seeds"}
    titles |= {f"gap_{stratum}": f"GAP {stratum}" for stratum in STRATA}
    titles["gap_difference"] = "GAP against the baseline, 95%"
    lines = ["| " + " | ".join(titles.values()) + " |", "|" + " --- |" * len(titles)]
    for each in rows:
        lines.append("| " + " | ".join(_cell(name, each.get(name, "")) for name in titles) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value) -> str:
    if isinstance(value, str):
        return value
    if name in ("parameters", "videos_per_second", "export_mb"):
        return f"{value:,.0f}"
    return f"{value:.1f}" if name == "training_minutes" else f"{value:.4f}"


def plot(results: dict[str, list[Result]], folder: Path):
    """Write gap.png, strata.png and reliability.png."""
    import altair as alt

    gaps = [
        {"recipe": name, "GAP": result.metrics["gap"]}
        for name, of_seeds in results.items()
        for result in of_seeds
    ]
    chart = alt.Chart(alt.Data(values=gaps), title="GAP of each seed").mark_point(filled=True)
    x = alt.X("GAP:Q", scale=alt.Scale(zero=False))
    chart.encode(x, y=alt.Y("recipe:N", sort="x")).save(folder / "gap.png", scale_factor=2)

    strata = [
        {"recipe": name, "training videos of the class": stratum, "GAP": np.mean(values)}
        for name, of_seeds in results.items()
        for stratum in STRATA
        for values in [[result.metrics[f"gap_{stratum}"] for result in of_seeds]]
    ]
    x = alt.X("training videos of the class:N", sort=list(STRATA))
    lines = alt.Chart(alt.Data(values=strata)).mark_line(point=True)
    lines.encode(x, y="GAP:Q", color="recipe:N").save(folder / "strata.png", scale_factor=2)

    bins = [
        {"recipe": name, "predicted probability": p, "fraction of hits": fraction}
        for name, of_seeds in results.items()
        for p, fraction in of_seeds[0].bins.tolist()
    ]
    lines = alt.Chart(alt.Data(values=bins)).mark_line(point=True)
    lines = lines.encode(x="predicted probability:Q", y="fraction of hits:Q", color="recipe:N")
    lines.save(folder / "reliability.png", scale_factor=2)


def _log_look(name: str, seed: int, result: Result, config: QualityBenchmark):
    """Append to looks.csv."""
    path = Path(config.output_dir) / "looks.csv"
    new = not path.exists()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["date", "commit", "recipe", "seed", "evaluation shards", "GAP"])
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        gap = f"{result.metrics['gap']:.4f}"
        writer.writerow([now, commit.stdout.decode().strip(), name, seed, config.eval, gap])


def _write_csv(path: Path, rows: list[dict]):
    names = list(dict.fromkeys(name for each in rows for name in each))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str]):
    """Run `python -m benchmarks.quality`."""
    config = parse(QualityBenchmark, ["benchmarks.quality", *argv[1:]])
    console.set_up()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = config.recipes.split(",")
    names.sort(key=lambda name: name != config.baseline)  # the baseline first
    results: dict[str, list[Result]] = {}
    for name in names:
        for seed in range(config.seeds):
            result = measure(name, seed, config)
            results.setdefault(name, []).append(result)
            _log_look(name, seed, result, config)
            line = " | ".join(f"{TITLES[m]}: {result.metrics[m]:.4f}" for m in METRICS)
            print(f"{name}, seed {seed} | {line}", flush=True)
        rows = [
            row(each, of_seeds, results.get(config.baseline) if each != config.baseline else None)
            for each, of_seeds in results.items()
        ]
        (folder / "table.md").write_text(markdown(rows))
        _write_csv(folder / "table.csv", rows)
        seeds = [
            {"recipe": each, "seed": seed, **result.metrics}
            for each, of_seeds in results.items()
            for seed, result in enumerate(of_seeds)
        ]
        _write_csv(folder / "seeds.csv", seeds)
    plot(results, folder)
    print(markdown(rows))
    print(f"Wrote the table and plots to {folder}.")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
