"""The metrics that a model is judged by, and how they are shown beside the published model's."""

# From 0 to 1, more is better; and how readers call each.
METRICS = {"gap": "GAP", "hit_at_1": "Hit@1", "perr": "PERR", "map": "mAP"}

MEANINGS = {
    "gap": "Every video's 20 best predictions in one list, by score: the average precision of that "
    "list.",
    "hit_at_1": "How many of the videos have their best-scored class among their labels.",
    "perr": "How many of a video's n best-scored classes are right, where n is how many labels it "
    "has; averaged over the videos.",
    "map": "The mean of the classes' average precisions: a rare class counts as much as a frequent "
    "one.",
    "loss": "Cross-entropy a video, summed over the classes: less is better.",
}


def compare(new: dict, old: dict) -> list[dict]:
    """What is shown of each metric and of the loss; what is missing is None.

    Args:
        new: Metric name -> value, of the new model.
        old: The same of the published model; empty if none is.
    """
    rows = []
    for name, label in (METRICS | {"loss": "Loss"}).items():
        difference = new[name] - old[name] if name in new and name in old else None
        gain = (difference or 0) * (-1 if name == "loss" else 1)
        rows.append(
            {
                "label": label,
                "meaning": MEANINGS[name],
                "new": new.get(name),
                "old": old.get(name),
                "difference": difference,
                "tone": "good" if gain > 0 else "bad" if gain < 0 else "",
            }
        )
    return rows
