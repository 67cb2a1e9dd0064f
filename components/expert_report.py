"""The experts of a mixture in the evaluation report, and in experts.json."""

import json

import numpy as np

from trainer.evaluation.experts import ExpertAnalysis, ExpertUsage

SPECIALIZED = 0.1  # minimum specialization of a class that counts as specialized
NUM_LISTED = 10  # classes in each table
ENTROPY_EDGES = np.linspace(0, 1, 21)  # bins of the histogram


def section(
    new: ExpertAnalysis,
    published: ExpertAnalysis | None,
    class_names: list[str],
    min_videos: int,
) -> dict:
    """Return what evaluation.html shows about experts.

    Args:
        new: analysis of the new model.
        published: analysis of the published model; None if there is none, or if it is no mixture
            of experts.
        class_names: by class id.
        min_videos: minimum number of videos of a class that is counted or listed.
    """
    num_videos = new.positives.num_videos
    counted = num_videos >= min_videos
    one_expert = new.single_expert | new.collapsed
    specialized = counted & ~one_expert & (new.specialization > 0)
    return {
        "names": names(new),
        "num_counted": int(counted.sum()),
        "new": _summary(new, counted),
        "old": _summary(published, counted) if published else None,
        "bin_edges": ENTROPY_EDGES.tolist(),
        "bin_counts": _entropy_counts(new),
        "specialized": _rows(new, class_names, specialized, -new.specialization),
        "one_expert": _rows(new, class_names, counted & one_expert, -num_videos),
    }


def names(analysis: ExpertAnalysis) -> list[str]:
    """Names of the experts of a class, the dummy expert last."""
    num_experts = analysis.all_videos.gate_probabilities.shape[1] - 1
    return [f"Expert {i + 1}" for i in range(num_experts)] + ["Dummy"]


def _summary(analysis: ExpertAnalysis, counted: np.ndarray) -> dict:
    """Mean entropies, and the number of classes of each kind, among the classes in `counted`."""
    return {
        "entropy": float(analysis.positives.entropy[counted].mean()),
        "entropy_all_videos": float(analysis.all_videos.entropy[counted].mean()),
        "specialized": int((counted & (analysis.specialization >= SPECIALIZED)).sum()),
        "single_expert": int((counted & analysis.single_expert).sum()),
        "collapsed": int((counted & analysis.collapsed).sum()),
    }


def _entropy_counts(analysis: ExpertAnalysis) -> list[int]:
    """Histogram over ENTROPY_EDGES of the entropy of the classes that have positives."""
    entropy = analysis.positives.entropy[analysis.positives.num_videos > 0]
    return np.histogram(entropy.clip(0, 1), ENTROPY_EDGES)[0].tolist()


def _rows(
    analysis: ExpertAnalysis, class_names: list[str], selected: np.ndarray, sort_key: np.ndarray
) -> list[dict]:
    """Table rows of the first NUM_LISTED selected classes, by ascending sort key."""
    classes = np.flatnonzero(selected)
    classes = classes[np.argsort(sort_key[classes], kind="stable")][:NUM_LISTED]
    return [
        {
            "name": class_names[i],
            "videos": int(analysis.positives.num_videos[i]),
            "load": analysis.positives.load[i].tolist(),
            "gate_probabilities": analysis.positives.gate_probabilities[i].tolist(),
            "gate_probabilities_all_videos": analysis.all_videos.gate_probabilities[i].tolist(),
            "entropy": float(analysis.positives.entropy[i]),
            "specialization": float(analysis.specialization[i]),
        }
        for i in classes
    ]


def as_json(analysis: ExpertAnalysis, min_videos: int) -> str:
    """Return the text of experts.json.

    It has lists by class id, of lists by expert, with null for classes without videos; the
    attributes of `ExpertUsage` for "all_videos" and "positives"; and a "summary" of the classes
    with at least `min_videos` videos. "entropy_counts" is a histogram of all classes that have
    positives, with 20 equal bins in [0, 1].
    """
    counted = analysis.positives.num_videos >= min_videos
    result = {
        "experts": names(analysis),
        "num_videos": int(analysis.all_videos.num_videos.max(initial=0)),
        "num_positives": analysis.positives.num_videos.tolist(),
        "summary": {"num_classes": int(counted.sum()), "min_videos": min_videos}
        | _summary(analysis, counted)
        | {"entropy_counts": _entropy_counts(analysis)},
        "all_videos": _usage_as_json(analysis.all_videos),
        "positives": _usage_as_json(analysis.positives),
        "specialization": _rounded(analysis.specialization),
    }
    return json.dumps(result, separators=(",", ":"), allow_nan=False) + "\n"


def _usage_as_json(usage: ExpertUsage) -> dict:
    return {
        "gate_probabilities": _rounded(usage.gate_probabilities),
        "load": _rounded(usage.load),
        "entropy": _rounded(usage.entropy),
    }


def _rounded(values: np.ndarray) -> list:
    """Nested lists with four decimals, and None for NaN."""
    return np.where(np.isnan(values), None, values.round(4)).tolist()
