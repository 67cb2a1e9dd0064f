"""The evaluation step: evaluates the new and the published model on the same videos."""

import json
import logging
import math
from dataclasses import asdict

import numpy as np

from components import expert_report, report
from components.metric_table import metric_rows
from components.publish import read_champion
from trainer.common import storage
from trainer.evaluation import evaluator, slices
from trainer.evaluation.bootstrap import NUM_REPLICATES
from trainer.evaluation.comparison import compare
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.metrics import frequency_gap
from trainer.evaluation.slices import Slicing

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
    statistics_file: str = "",
    slice_file: str = "",
    confidence: float = 0.95,
    bootstrap_replicates: int = NUM_REPLICATES,
) -> dict:
    """Evaluate the new and the published model in one pass, and write a report.

    Writes metrics.json and report.html to `output_dir`, and experts.json if the new model is a
    mixture of experts.

    Args:
        train_dir: Directory of the new model's checkpoints.
        eval_data: Glob(s) of the evaluation records.
        publish_dir: Directory of published models. The model published there is evaluated too.
        output_dir: Directory to write to.
        vocabulary: CSV file with class names. Empty: classes are shown by their ids.
        batch_size: Videos per batch.
        statistics_file: statistics.json of the validation, for slices by the number of training
            videos of a class. Empty: no such slices.
        slice_file: CSV file with the columns id and slice. Empty: no such slices.
        confidence: Confidence level of the intervals.
        bootstrap_replicates: Number of bootstrap replicates.

    Returns:
        The content of metrics.json:

        - "challenger" and "champion": metric name -> value; the champion is null if no model is
          published. A metric that is not finite is left out.
        - "comparison": metric name -> {"challenger", "champion", "difference"}, each an
          `Estimate`: "value", "standard_error", "low", "high" and "p_value".
        - "slices": list of {"slicing", "slice", "num_videos", "num_positives", "gap"}, the last as
          in "comparison".
        - "frequency_gap": the GAP of ranking the classes by their frequency in the data.
        - "confidence", "bootstrap_replicates", "champion_version", "train_dir" and "step".

    Raises:
        UserError: A model or a record cannot be read, or no video has a label.
    """
    champion = read_champion(publish_dir)
    logging.info("Evaluating the new model in %s.", train_dir)
    if champion:
        logging.info("Evaluating the published model in %s.", champion.path)
    new, old = evaluator.evaluate_pair(
        train_dir,
        champion.path if champion else None,
        eval_data,
        batch_size,
        vocabulary_file=vocabulary,
    )
    slicings = _slicings(new, statistics_file, vocabulary, slice_file)
    comparison, of_slices = compare(new, old, slicings, confidence, bootstrap_replicates)
    metrics = {
        "challenger": _finite(new.metrics),
        "champion": _finite(old.metrics) if old else None,
        "champion_version": champion.version if champion else None,
        "comparison": {name: asdict(result) for name, result in comparison.items()},
        "slices": [asdict(result) for result in of_slices],
        "frequency_gap": frequency_gap(new.num_positives, len(new.videos)),
        "confidence": confidence,
        "bootstrap_replicates": bootstrap_replicates,
        "train_dir": train_dir,
        "step": new.step,
    }
    text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
    html = page(new, metrics, eval_data, old)
    storage.write_text(storage.join(output_dir, "report.html"), html)
    if new.experts:
        experts = expert_report.as_json(new.experts, _min_videos(new))
        storage.write_text(storage.join(output_dir, "experts.json"), experts)
    storage.write_text(storage.join(output_dir, "metrics.json"), text)
    return metrics


def _slicings(
    new: Evaluation, statistics_file: str, vocabulary: str, slice_file: str
) -> list[Slicing]:
    num_classes = len(new.num_positives)
    slicings = [
        _class_frequencies(statistics_file, num_classes),
        slices.by_num_labels(new.videos),
        slices.by_num_frames(new.videos),
        slices.by_vertical(vocabulary, num_classes),
        slices.by_file(slice_file, new.videos) if slice_file else None,
    ]
    return [found for found in slicings if found]


def _class_frequencies(statistics_file: str, num_classes: int) -> Slicing | None:
    if not statistics_file:
        return None
    splits = storage.read_json(statistics_file, "splits")["splits"]
    counts = np.zeros(num_classes, np.int64)
    found = splits["train"]["labels"][:num_classes] if "train" in splits else []
    counts[: len(found)] = found
    return slices.by_class_frequency(counts) if found else None


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
