"""The HTML report of an evaluation, and the class table as CSV."""

import csv
import io

import numpy as np

from components import expert_report, report
from components.metric_table import metric_rows
from trainer.evaluation import analysis
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.metrics import METRICS

NUM_LISTED = 10  # classes in each table of the best, worst and changed ones
MIN_VIDEOS = 10  # of a class that is listed as one of the best or worst
NUM_BINS = 20  # of the histogram of average precision

CSV_COLUMNS = (
    "class_id",
    "name",
    "videos",
    "average_precision",
    "published_average_precision",
    "difference",
)


def min_videos(new: Evaluation) -> int:
    """Minimum number of videos of a class that is listed by its average precision.

    It is less than MIN_VIDEOS if no class has as many.
    """
    return int(min(MIN_VIDEOS, new.num_positives.max()))


def classes_csv(new: Evaluation, old: Evaluation | None = None) -> str:
    """Return the average precision and the number of videos of each class as CSV.

    Args:
        new: Evaluation of the new model.
        old: Evaluation of the published model, if there is one.

    Returns:
        CSV with the columns `CSV_COLUMNS`; empty cells where there is no value.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    published = _published_precision(new, old)
    for i, (name, videos) in enumerate(zip(new.class_names, new.num_positives, strict=True)):
        values = new.average_precision[i], published[i], new.average_precision[i] - published[i]
        cells = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
        writer.writerow([i, name, int(videos), *cells])
    return file.getvalue()


def _published_precision(new: Evaluation, old: Evaluation | None) -> np.ndarray:
    """[num_classes] float64; NaN without a published model, and for classes that it lacks."""
    result = np.full(len(new.num_positives), np.nan)
    if old:
        known = old.average_precision[: len(result)]
        result[: len(known)] = known
    return result


def page(new: Evaluation, metrics: dict, eval_data: str, old: Evaluation | None = None) -> str:
    """Return the report as HTML.

    Args:
        new: Evaluation of the new model.
        metrics: Content of metrics.json.
        eval_data: Glob(s) of the evaluation records.
        old: Evaluation of the published model, if there is one.
    """
    seen = np.flatnonzero(new.num_positives)
    precisions, published = new.average_precision[seen], _published_precision(new, old)[seen]
    classes = [
        (new.class_names[i], int(num_videos), float(precision), float(before))
        for i, num_videos, precision, before in zip(
            seen, new.num_positives[seen], precisions, published, strict=True
        )
    ]
    frequent = [row for row in classes if row[1] >= min_videos(new)]
    changed = [row for row in frequent if row[2] != row[3] and not np.isnan(row[3])]
    counts, edges = np.histogram(precisions, NUM_BINS, range=(0, 1))
    experts = None
    if new.experts:
        old_experts = old.experts if old else None
        experts = expert_report.section(new.experts, old_experts, new.class_names, min_videos(new))
    return report.render(
        "evaluation.html",
        kind="Evaluation",
        eval_data=eval_data,
        model_flags=new.model_flags,
        metrics=metrics,
        comparison=_comparison(metrics),
        num_classes=len(new.num_positives),
        bin_edges=edges.tolist(),
        bin_counts=counts.tolist(),
        classes=classes,
        points=[(num_videos, precision, name) for name, num_videos, precision, _ in classes],
        min_videos=min_videos(new),
        best=_rows(frequent, lambda row: (-row[2], -row[1])),
        worst=_rows(frequent, lambda row: (row[2], -row[1])),
        better=_changes([row for row in changed if row[2] > row[3]]),
        worse=_changes([row for row in changed if row[2] < row[3]]),
        calibration=_calibration(new, old),
        precision_recall=[
            (name, list(zip(*map(np.ndarray.tolist, curve), strict=True)))
            for name, curve in _each(new, old, analysis.precision_recall)
        ],
        confusions=_confusions(new),
        losses=_losses(new),
        experts=experts,
    )


def _comparison(metrics: dict) -> list[dict]:
    """The rows of `metric_rows`, with the estimates in "estimates" where there are any.

    Differences that are not significant have no tone.
    """
    rows = metric_rows(metrics["challenger"], metrics["champion"] or {})
    for name, row in zip([*METRICS, "loss"], rows, strict=True):
        row["estimates"] = metrics["comparison"].get(name)
        difference = (row["estimates"] or {}).get("difference")
        if difference and difference["low"] <= 0 <= difference["high"]:
            row["tone"] = ""
    return rows


def _each(new: Evaluation, old: Evaluation | None, function) -> list[tuple]:
    """(Name, result) of a function of predictions and videos, for both models."""
    models = [("New model", new)] + ([("Published", old)] if old else [])
    return [(name, function(model.predictions, model.videos)) for name, model in models]


def _calibration(new: Evaluation, old: Evaluation | None) -> dict:
    found = _each(new, old, lambda predictions, _: analysis.calibration(predictions))
    curves = [
        (name, list(zip(each.mean_scores.tolist(), each.precisions.tolist(), strict=True)))
        for name, each in found
    ]
    return {
        "curves": [*curves, ("Perfect calibration", [(0.0, 0.0), (1.0, 1.0)])],
        "errors": [(name, each.expected_calibration_error) for name, each in found],
    }


def _rows(classes: list[tuple], sort_key) -> list[tuple[str, str, str]]:
    """Table rows of the first NUM_LISTED classes."""
    return [
        (name, report.count(num_videos), report.score(precision))
        for name, num_videos, precision, _ in sorted(classes, key=sort_key)[:NUM_LISTED]
    ]


def _changes(classes: list[tuple]) -> list[tuple[str, str, str, str, str]]:
    """Table rows of the classes whose average precision changed most."""
    largest = sorted(classes, key=lambda row: (-abs(row[2] - row[3]), -row[1]))[: 2 * NUM_LISTED]
    return [
        (
            name,
            report.count(num_videos),
            report.score(before),
            report.score(precision),
            report.signed(precision - before),
        )
        for name, num_videos, precision, before in largest
    ]


def _confusions(new: Evaluation) -> list[tuple[str, str, str, str]]:
    return [
        (
            new.class_names[each.label],
            new.class_names[each.predicted],
            report.count(each.num_videos),
            f"{each.fraction:.1%}",
        )
        for each in analysis.confusions(new.predictions, new.videos)
    ]


def _losses(new: Evaluation) -> list[tuple[str, str, str, str]]:
    names = new.class_names
    return [
        (
            each.id,
            ", ".join(names[i] for i in each.labels) or "none",
            ", ".join(f"{names[i]} {score:.2f}" for i, score in each.predictions),
            f"{each.loss:.2f}",
        )
        for each in analysis.largest_losses(new.predictions, new.videos)
    ]
