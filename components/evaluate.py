"""The evaluation step: evaluates the new and the published model on the same videos."""

import json
import logging
import math

import numpy as np

from components import expert_report, report
from components.metric_table import metric_rows
from components.registry.registry import Champion, read_champion
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.evaluation import evaluator
from trainer.evaluation.evaluator import Evaluation

NUM_LISTED = 10  # classes in each table of the report
MIN_VIDEOS = 10  # of a class that is listed as one of the best or worst
NUM_BINS = 20  # of the histogram of average precision


def evaluate(
    train_dir: str,
    eval_data: str,
    publish_dir: str,
    output_dir: str,
    vocabulary: str = "",
    batch_size: int = 1024,
) -> dict:
    """Evaluate the new and the published model, and write a report.

    Writes metrics.json and report.html to `output_dir`, and experts.json if the new model is a
    mixture of experts.

    Args:
        train_dir: Directory of the new model's checkpoints.
        eval_data: Glob(s) of the evaluation records.
        publish_dir: Directory of published models. The model published there is evaluated too.
        output_dir: Directory to write to.
        vocabulary: CSV file with class names. Empty: classes are shown by their ids.
        batch_size: Videos per batch.

    Returns:
        The content of metrics.json: "challenger" and "champion" (metric name -> value; the
        champion is null if no model is published), "champion_version", "train_dir" and "step". A
        metric that is not finite is left out.

    Raises:
        UserError: A model or a record cannot be read, or no video has a label.
    """
    champion = read_champion(publish_dir)
    logging.info("Evaluating the new model in %s.", train_dir)
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
        text = expert_report.as_json(new.experts, _min_videos(new))
        storage.write_text(storage.join(output_dir, "experts.json"), text)
    text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
    storage.write_text(storage.join(output_dir, "metrics.json"), text)
    return metrics


def _evaluate_champion(champion: Champion, eval_data: str, batch_size: int) -> Evaluation:
    logging.info("Evaluating the published model in %s.", champion.path)
    try:
        return evaluator.evaluate(champion.path, eval_data, batch_size)
    except UserError as error:
        raise UserError(
            f"The published model {champion.path!r} cannot be evaluated on this data, and the new "
            f"model cannot be compared with it: {error} Publish models of other data to another "
            "directory."
        ) from error


def _finite(metrics: dict) -> dict:
    """The metrics that JSON, and Kubeflow's metrics, can represent."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def page(new: Evaluation, metrics: dict, eval_data: str, old: Evaluation | None = None) -> str:
    """Return the report as HTML.

    Args:
        new: Evaluation of the new model.
        metrics: Content of metrics.json.
        eval_data: Glob(s) of the evaluation records.
        old: Evaluation of the published model, if there is one.
    """
    seen = np.flatnonzero(new.num_positives)
    precisions = new.average_precision[seen]
    classes = [
        (new.class_names[i], int(num_videos), float(precision))
        for i, num_videos, precision in zip(seen, new.num_positives[seen], precisions, strict=True)
    ]
    min_videos = _min_videos(new)
    frequent = [row for row in classes if row[1] >= min_videos]
    counts, edges = np.histogram(precisions, NUM_BINS, range=(0, 1))
    experts = None
    if new.experts:
        old_experts = old.experts if old else None
        experts = expert_report.section(new.experts, old_experts, new.class_names, min_videos)
    return report.render(
        "evaluation.html",
        kind="Evaluation",
        eval_data=eval_data,
        model_flags=new.model_flags,
        metrics=metrics,
        comparison=metric_rows(metrics["challenger"], metrics["champion"] or {}),
        num_classes=len(new.num_positives),
        bin_edges=edges.tolist(),
        bin_counts=counts.tolist(),
        points=[(num_videos, precision, name) for name, num_videos, precision in classes],
        min_videos=min_videos,
        best=_rows(frequent, lambda row: (-row[2], -row[1])),
        worst=_rows(frequent, lambda row: (row[2], -row[1])),
        experts=experts,
    )


def _min_videos(new: Evaluation) -> int:
    """Minimum number of videos of a class that is listed by its average precision.

    It is less than MIN_VIDEOS if no class has as many.
    """
    return int(min(MIN_VIDEOS, new.num_positives.max()))


def _rows(classes: list[tuple[str, int, float]], sort_key) -> list[tuple[str, str, str]]:
    """Table rows of the first NUM_LISTED classes (name, number of videos, average precision)."""
    return [
        (name, report.count(num_videos), report.score(precision))
        for name, num_videos, precision in sorted(classes, key=sort_key)[:NUM_LISTED]
    ]
