"""The report of a batch prediction: counts, distribution of probabilities, and drift."""

import numpy as np

from components import report
from components.predict.prediction import SUMMARY
from components.validate_data import drift
from components.validate_data.split_checks import training_split
from trainer.common import storage
from trainer.data.vocabulary import read_names

NUM_LISTED = 20  # classes in the table of the most frequent ones


def write_report(
    output_dir: str, baseline: str = "", validation: str = "", vocabulary: str = ""
) -> None:
    """Write report.html to `output_dir`, from its predictions.json.

    Args:
        output_dir: Folder of a batch prediction, local or gs://.
        baseline: statistics.json of the training data's validation. Empty: no comparison.
        validation: statistics.json of the input files' validation. Empty: the features are not
            compared.
        vocabulary: CSV file with class names. Empty: those of an exported model, or the ids.

    Raises:
        UserError: A file cannot be read, or the report cannot be written.
    """
    summary = storage.read_json(storage.join(output_dir, SUMMARY), "statistics", "files")
    training = _training_statistics(baseline) if baseline else None
    comparisons = storage.read_json(validation)["comparisons"] if validation else []
    names = _class_names(summary, vocabulary)
    html = page(summary, training, comparisons, names)
    storage.write_text(storage.join(output_dir, "report.html"), html)


def _training_statistics(path: str) -> dict:
    splits = storage.read_json(path, "splits")["splits"]
    return splits[training_split(splits)]


def _class_names(summary: dict, vocabulary: str) -> list[str]:
    exported = storage.join(summary["model_dir"], "class_names.json")
    if not vocabulary and storage.exists(exported):
        return storage.read_json(exported, "names")["names"]
    return read_names(vocabulary, len(summary["statistics"]["top_classes"]))


def page(summary: dict, training: dict | None, comparisons: list[dict], names: list[str]) -> str:
    """Return the report as HTML.

    Args:
        summary: Content of predictions.json.
        training: Statistics of the training split, in the form of statistics.json.
        comparisons: "comparisons" of the input files' statistics.json.
        names: Class names by class id.
    """
    statistics = summary["statistics"]
    num_bins = len(statistics["top_probabilities"])
    return report.render(
        "predict/report.html",
        kind="Batch prediction",
        summary=summary,
        statistics=statistics,
        bin_edges=[i / num_bins for i in range(num_bins + 1)],
        top_classes=_top_classes(statistics, names),
        classes=label_drift(statistics, training) if training else None,
        class_names=names,
        features=_feature_drift(comparisons),
    )


def label_drift(statistics: dict, training: dict) -> dict | None:
    """Compare the predicted frequency of the classes with the labels of the training data.

    Returns:
        The distances of `drift.compare_labels`; None without videos or labels.
    """
    if not statistics["videos"] or not training["videos"]:
        return None
    sampling_variance = 1 / statistics["videos"] + 1 / training["videos"]
    expected, labels = np.array(statistics["expected_labels"]), np.array(training["labels"])
    return drift.compare_labels(expected, labels, sampling_variance)


def _top_classes(statistics: dict, names: list[str]) -> list[tuple[str, str, str]]:
    """Table rows of the classes that most often have the highest probability."""
    counts = np.array(statistics["top_classes"])
    order = np.argsort(-counts, kind="stable")[:NUM_LISTED]
    return [
        (names[i], report.count(counts[i]), f"{counts[i] / statistics['videos']:.2%}")
        for i in order
        if counts[i]
    ]


def _feature_drift(comparisons: list[dict]) -> list[tuple[str, str, str, str]]:
    """Table rows: what is compared, the feature, the largest shift of a mean, and its excess."""
    return [
        (row["against"], name, f"{feature['shift']:.3f}", f"{feature['shift_drift']:.3f}")
        for row in comparisons
        for name, feature in row["features"].items()
    ]
