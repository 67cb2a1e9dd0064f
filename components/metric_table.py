"""The table of metrics in reports: the new model beside the published one."""

from trainer.evaluation.metrics import METRICS

LOSS = (
    "Loss",
    "Mean CrossEntropyLoss of a video: the cross-entropy summed over the classes. Lower is better.",
)


def metric_rows(new: dict, published: dict) -> list[dict]:
    """Return a row for each metric in METRICS, and one for the loss.

    Args:
        new: metric name -> value of the new model.
        published: the same of the published model; empty if there is none.

    Returns:
        Rows with "label" and "meaning", the values "new" and "old" and their "difference", which
        are None if unknown, and "tone": "good" or "bad" if the new model is better or worse, else
        "".
    """
    texts = {name: (metric.title, metric.description) for name, metric in METRICS.items()}
    return [
        {"label": title, "meaning": description}
        | _values(new.get(name), published.get(name), higher_is_better=name in METRICS)
        for name, (title, description) in (texts | {"loss": LOSS}).items()
    ]


def _values(new: float | None, old: float | None, higher_is_better: bool) -> dict:
    difference = None if new is None or old is None else new - old
    tone = ""
    if difference:
        tone = "good" if (difference > 0) == higher_is_better else "bad"
    return {"new": new, "old": old, "difference": difference, "tone": tone}
