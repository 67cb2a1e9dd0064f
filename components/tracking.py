"""Log the results of the pipeline's steps to MLflow, if MLFLOW_TRACKING_URI is set."""

from trainer.common import storage
from trainer.common.tracking import Tracker

REPORTS = ("report.html", "metrics.json", "experts.json")


def log_evaluation(train_dir: str, folder: str, metrics: dict) -> None:
    """Log the metrics of the new and the published model, and the reports.

    Args:
        train_dir: The new model's train_dir, which identifies the MLflow run.
        folder: The folder of the evaluation's reports.
        metrics: Content of metrics.json.
    """
    values = {f"eval/{name}": value for name, value in metrics["challenger"].items()}
    for name, value in (metrics["champion"] or {}).items():
        values[f"champion/{name}"] = value
    with Tracker(train_dir) as tracker:
        tracker.log_metrics(values, metrics["step"])
        for name in REPORTS:
            if tracker.enabled and storage.exists(storage.join(folder, name)):
                text = storage.read_text(storage.join(folder, name))
                tracker.log_text(f"evaluation/{name}", text)


def log_published(train_dir: str, published: dict) -> None:
    """Log the published version and its path.

    Args:
        train_dir: The model's train_dir, which identifies the MLflow run.
        published: "version" and "path" of the published model.
    """
    with Tracker(train_dir) as tracker:
        tracker.set_tags(
            {"yt8m.published_version": published["version"], "yt8m.published": published["path"]}
        )
