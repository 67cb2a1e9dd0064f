"""What the evaluation's report, and experts.json, say of a model's mixtures of experts."""

import json

import numpy as np

from trainer.evaluation.experts import Experts, Usage

SPECIALISED = 0.1  # from this specialisation on a class' experts share its videos among them
LISTED_CLASSES = 10  # in each table
EDGES = np.linspace(0, 1, 21)  # of the histogram of entropies


def section(new: Experts, old: Experts | None, class_names: list[str], least_videos: int) -> dict:
    """What evaluation.html shows.

    Args:
        new: Of the new model.
        old: Of the published model; None if there is none, or it has no experts.
        class_names: By class id.
        least_videos: Of a class that is counted or listed.
    """
    num_videos = new.on_positives.num_videos
    counted = num_videos >= least_videos
    only_one = new.single | new.collapsed
    specialised = counted & ~only_one & (new.specialisation > 0)
    return {
        "names": names(new),
        "num_counted": int(counted.sum()),
        "new": _counts(new, counted),
        "old": _counts(old, counted) if old else None,
        "bin_edges": EDGES.tolist(),
        "bin_counts": _entropy_counts(new),
        "specialised": _rows(new, class_names, specialised, -new.specialisation),
        "collapsed": _rows(new, class_names, counted & only_one, -num_videos),
    }


def names(experts: Experts) -> list[str]:
    """What the experts of a class are called, the dummy last."""
    num_experts = experts.on_all.weights.shape[1] - 1
    return [f"Expert {i + 1}" for i in range(num_experts)] + ["Dummy"]


def _counts(experts: Experts, counted: np.ndarray) -> dict:
    """Of the classes in `counted`: the mean entropies, and how many are of each kind."""
    return {
        "entropy": float(experts.on_positives.entropy[counted].mean()),
        "entropy_on_all": float(experts.on_all.entropy[counted].mean()),
        "specialised": int((counted & (experts.specialisation >= SPECIALISED)).sum()),
        "single": int((counted & experts.single).sum()),
        "collapsed": int((counted & experts.collapsed).sum()),
    }


def _entropy_counts(experts: Experts) -> list[int]:
    """How many of the classes that a video has lie between two EDGES."""
    entropy = experts.on_positives.entropy[experts.on_positives.num_videos > 0]
    return np.histogram(entropy.clip(0, 1), EDGES)[0].tolist()


def _rows(experts: Experts, class_names: list[str], chosen: np.ndarray, order: np.ndarray) -> list:
    """The rows of a table: the first of the `chosen` classes by `order`."""
    classes = np.flatnonzero(chosen)
    classes = classes[np.argsort(order[classes], kind="stable")][:LISTED_CLASSES]
    return [
        {
            "name": class_names[i],
            "videos": int(experts.on_positives.num_videos[i]),
            "shares": experts.on_positives.shares[i].tolist(),
            "weights": experts.on_positives.weights[i].tolist(),
            "weights_on_all": experts.on_all.weights[i].tolist(),
            "entropy": float(experts.on_positives.entropy[i]),
            "specialisation": float(experts.specialisation[i]),
        }
        for i in classes
    ]


def as_json(experts: Experts, least_videos: int) -> str:
    """The text of experts.json: lists by class id, of lists by expert; null where there is none.

    "summary" is of the classes with `least_videos` or more, its "entropy_counts" of all that a
    video has, in 20 equal parts of [0, 1].
    """
    counted = experts.on_positives.num_videos >= least_videos
    result = {
        "experts": names(experts),
        "num_videos": int(experts.on_all.num_videos.max(initial=0)),
        "num_positives": experts.on_positives.num_videos.tolist(),
        "summary": {"classes": int(counted.sum()), "least_videos": least_videos}
        | _counts(experts, counted)
        | {"entropy_counts": _entropy_counts(experts)},
        "on_all": _usage_as_json(experts.on_all),
        "on_positives": _usage_as_json(experts.on_positives),
        "specialisation": _rounded(experts.specialisation),
    }
    return json.dumps(result, separators=(",", ":"), allow_nan=False) + "\n"


def _usage_as_json(usage: Usage) -> dict:
    return {
        "weights": _rounded(usage.weights),
        "shares": _rounded(usage.shares),
        "entropy": _rounded(usage.entropy),
    }


def _rounded(values: np.ndarray) -> list:
    return np.where(np.isnan(values), None, values.round(4)).tolist()
