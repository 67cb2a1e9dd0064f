"""Measures the new model and the published one on the same videos, and reports on both."""

import json
import logging
import math

import numpy as np

from components import experts, report
from components.comparison import compare
from components.publish import Champion, read_champion
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.evaluation import evaluator
from trainer.evaluation.evaluator import Evaluation

LISTED_CLASSES = 10  # in each table of the report
LEAST_VIDEOS = 10  # of a class that is called one of the best or worst, where there are such
BINS = 20


def evaluate(
    train_dir: str,
    eval_data: str,
    publish_dir: str,
    output_dir: str,
    vocabulary: str = "",
    batch_size: int = 1024,
) -> dict:
    """Writes metrics.json and report.html to `output_dir`; experts.json too, if the model has them.

    Args:
        train_dir: Where the trainer saved the new model.
        eval_data: Glob(s) of the videos to measure on.
        publish_dir: Where models are published; what is published there is measured too.
        output_dir: Where to write.
        vocabulary: CSV file with the classes' names; "": they go by their number.
        batch_size: Videos per batch.

    Returns:
        What metrics.json holds: "challenger" and "champion" (metric name -> finite number; the
        champion null where nothing is published), "champion_version", "train_dir", "step". A
        metric that is not finite is left out.

    Raises:
        UserError: a model or a record cannot be read, or no video has a label.
    """
    champion = read_champion(publish_dir)
    logging.info("Measuring the new model, of %s.", train_dir)
    new = evaluator.evaluate(train_dir, eval_data, batch_size, vocabulary_file=vocabulary)
    old = _evaluate_champion(champion, eval_data, batch_size) if champion else None
    metrics = {
        "challenger": _finite(new.metrics),
        "champion": _finite(old.metrics) if old else None,
        "champion_version": champion.version if champion else None,
        "train_dir": train_dir,
        "step": new.step,
    }
    html = page(new, metrics, eval_data, old)
    storage.write_text(storage.join(output_dir, "report.html"), html)
    if new.experts:
        text = experts.as_json(new.experts, _least_videos(new))
        storage.write_text(storage.join(output_dir, "experts.json"), text)
    text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
    storage.write_text(storage.join(output_dir, "metrics.json"), text)
    return metrics


def _evaluate_champion(champion: Champion, eval_data: str, batch_size: int) -> Evaluation:
    logging.info("Measuring the published model, %s.", champion.path)
    try:
        return evaluator.evaluate(champion.path, eval_data, batch_size)
    except UserError as error:
        raise UserError(
            f"The published model {champion.path!r} cannot be measured on this data, so nothing "
            f"can be compared with it: {error} Publish models for other data in another folder."
        ) from error


def _finite(metrics: dict) -> dict:
    """Those that JSON, and Kubeflow, can hold."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def page(new: Evaluation, metrics: dict, eval_data: str, old: Evaluation | None = None) -> str:
    """The report, as HTML.

    Args:
        new: The new model's evaluation.
        metrics: What metrics.json holds.
        eval_data: Where the videos came from.
        old: The published model's evaluation, if any.
    """
    seen = np.flatnonzero(new.num_positives)
    precisions, videos = new.average_precision[seen], new.num_positives[seen]
    classes = [
        (new.class_names[i], int(count), float(precision))
        for i, count, precision in zip(seen, videos, precisions, strict=True)
    ]
    least_videos = _least_videos(new)
    frequent = [c for c in classes if c[1] >= least_videos]
    counts, edges = np.histogram(precisions, BINS, range=(0, 1))
    of_experts = None
    if new.experts:
        old_experts = old.experts if old else None
        of_experts = experts.section(new.experts, old_experts, new.class_names, least_videos)
    return report.render(
        "evaluation.html",
        kind="Evaluation",
        eval_data=eval_data,
        model_flags=new.model_flags,
        metrics=metrics,
        comparison=compare(metrics["challenger"], metrics["champion"] or {}),
        num_classes=len(new.num_positives),
        bin_edges=edges.tolist(),
        bin_counts=counts.tolist(),
        points=[(count, precision, name) for name, count, precision in classes],
        least_videos=least_videos,
        best=_rows(frequent, lambda c: (-c[2], -c[1])),
        worst=_rows(frequent, lambda c: (c[2], -c[1])),
        most_frequent=_rows(classes, lambda c: -c[1]),
        experts=of_experts,
    )


def _least_videos(new: Evaluation) -> int:
    """Videos of a class that says something by itself: LEAST_VIDEOS, if a class has as many."""
    return int(min(LEAST_VIDEOS, new.num_positives.max()))


def _rows(classes: list[tuple[str, int, float]], order) -> list[tuple[str, str, str]]:
    """The rows of a table: the first classes by `order`."""
    return [
        (name, report.count(videos), report.score(precision))
        for name, videos, precision in sorted(classes, key=order)[:LISTED_CLASSES]
    ]
