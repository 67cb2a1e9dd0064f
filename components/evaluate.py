"""The evaluation step: evaluates the new and the published model on the same videos."""

import json
import logging
import math
from dataclasses import asdict

import numpy as np

from components import evaluation_report, expert_report
from components.registry.registry import read_champion
from trainer.common import storage
from trainer.evaluation import evaluator, slices
from trainer.evaluation.bootstrap import NUM_REPLICATES
from trainer.evaluation.comparison import compare
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.metrics import frequency_gap
from trainer.evaluation.slices import Slicing


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

    Writes metrics.json, report.html and classes.csv to `output_dir`, and experts.json if the new
    model is a mixture of experts. Interrupted, it resumes from the predictions in
    `output_dir`/parts, which it deletes at the end.

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
        parts_dir=storage.join(output_dir, "parts"),
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
    html = evaluation_report.page(new, metrics, eval_data, old)
    storage.write_text(storage.join(output_dir, "report.html"), html)
    table = evaluation_report.classes_csv(new, old)
    storage.write_text(storage.join(output_dir, "classes.csv"), table)
    if new.experts:
        experts = expert_report.as_json(new.experts, evaluation_report.min_videos(new))
        storage.write_text(storage.join(output_dir, "experts.json"), experts)
    storage.write_text(storage.join(output_dir, "metrics.json"), text)
    storage.delete_tree(storage.join(output_dir, "parts"))
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
