"""What the report shows, worked out from statistics.json and anomalies.json."""

import numpy as np

MAX_POINTS = 150  # of a curve


def context(statistics: dict, anomalies: dict) -> dict:
    """The names that report.html uses, from the contents of the two files."""
    splits = statistics["splits"]
    frame_level = any(split["frames_per_video"] for split in splits.values())
    return {
        "kind": "Data validation",
        "passed": anomalies["passed"],
        "headline": _headline(anomalies),
        "fingerprint": statistics["fingerprint"],
        "splits": splits,
        "anomalies": anomalies["anomalies"],
        "overview": _overview(splits, frame_level),
        "label_frequency": [(name, _by_rank(split["labels"])) for name, split in splits.items()],
        "labels_per_video": _shares(splits, "labels_per_video"),
        "frames_per_video": _shares(splits, "frames_per_video") if frame_level else [],
        "features": _features(splits),
        "value_name": "frame" if frame_level else "video",
    }


def _headline(anomalies: dict) -> str:
    numbers = {"error": 0, "warning": 0, "info": 0}
    for row in anomalies["anomalies"]:
        numbers[row["severity"]] += 1
    if numbers["error"]:
        kinds = "one kind" if numbers["error"] == 1 else f"{numbers['error']} kinds"
        return f"{kinds} of errors, which would hurt training or its evaluation."
    if numbers["warning"]:
        return "No errors; see the warnings below."
    return "Every record was read, and nothing is wrong with any."


def _overview(splits: dict, frame_level: bool) -> list[tuple]:
    """Rows of a table: what, and then a text a split."""
    rows = [
        ("Files", lambda s: f"{s['files']:,}"),
        ("Size of the records", lambda s: _size(s["bytes"])),
        ("Records", lambda s: f"{s['records']:,}"),
        ("Good videos", lambda s: f"{s['videos']:,}"),
        ("Videos without labels", lambda s: f"{sum(s['labels_per_video'][:1]):,}"),
        ("Labels per video", lambda s: _mean_text(s["labels_per_video"])),
        ("Classes with a video", lambda s: f"{np.count_nonzero(s['labels']):,}"),
        ("Classes in all", lambda s: f"{len(s['labels']):,}"),
    ]
    if frame_level:
        rows.append(("Frames per video", lambda s: _mean_text(s["frames_per_video"])))
    return [(name, *(text(split) for split in splits.values())) for name, text in rows]


def _size(num_bytes: int) -> str:
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2)):
        if num_bytes >= 1000**power:
            return f"{num_bytes / 1000**power:.3g} {unit}"
    return f"{num_bytes / 1000:.3g} kB"


def _mean_text(counts: list[int]) -> str:
    """Mean and greatest of numbers that come as counts[number]."""
    videos = sum(counts)
    if not videos:
        return "none"
    mean = np.dot(counts, np.arange(len(counts))) / videos
    return f"{mean:.2f} (at most {len(counts) - 1})"


def _by_rank(labels: list[int]) -> list[tuple[int, int]]:
    """(rank, videos) of the classes that have a video, the most frequent first."""
    counts = np.sort(np.array(labels))[::-1]
    counts = counts[counts > 0]
    ranks = np.unique(np.geomspace(1, max(len(counts), 1), MAX_POINTS).round().astype(int))
    return [(int(rank), int(counts[rank - 1])) for rank in ranks if rank <= len(counts)]


def _shares(splits: dict, key: str) -> list[tuple[str, list]]:
    """A curve a split: (number, % of the videos that have so many)."""
    return [
        (name, [(i, 100 * n / max(sum(split[key]), 1)) for i, n in enumerate(split[key])])
        for name, split in splits.items()
        if sum(split[key])
    ]


def _features(splits: dict) -> list[dict]:
    names = sorted({name for split in splits.values() for name in split["features"]})
    return [_feature(name, splits) for name in names]


def _feature(name: str, splits: dict) -> dict:
    present = {
        split: of["features"][name] for split, of in splits.items() if name in of["features"]
    }
    size = len(next(iter(present.values()))["mean"])
    rows = [(split, *_feature_row(statistics)) for split, statistics in present.items()]
    curves = [(split, _density(statistics["histogram"])) for split, statistics in present.items()]
    return {"name": name, "size": size, "rows": rows, "curves": curves}


def _feature_row(statistics: dict) -> tuple:
    means, stds = np.array(statistics["mean"]), np.array(statistics["std"])
    low, high = np.array(statistics["min"]), np.array(statistics["max"])
    share_of_zeros = np.sum(statistics["zeros"]) / (statistics["count"] * len(means))
    return (
        f"{statistics['count']:,}",
        f"{means.mean():.3f}",
        f"{np.sqrt(np.mean(stds**2) + np.var(means)):.3f}",
        f"{low.min():.3f}",
        f"{high.max():.3f}",
        f"{100 * share_of_zeros:.2g}%",
        f"{np.count_nonzero(low == high):,}",
    )


def _density(histogram: dict) -> list[tuple[float, float]]:
    """(middle of the bin, % of the values)."""
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    total = counts.sum() + histogram["below"] + histogram["above"]
    middles = (edges[:-1] + edges[1:]) / 2
    return [
        (round(float(x), 3), float(100 * n / max(total, 1)))
        for x, n in zip(middles, counts, strict=True)
    ]
