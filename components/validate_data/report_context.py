"""The context of report.html, computed from statistics.json and anomalies.json."""

import numpy as np

from components.validate_data.references import References

MAX_POINTS = 150  # per line
FRAMES_STEP = 5  # bin width of the distribution of frames per video
NUM_WORST = 5  # classes or dimensions listed in a comparison
BANDS = (("Min", "min"), ("1%", "0.01"), ("Median", "0.5"), ("99%", "0.99"), ("Max", "max"))


def context(statistics: dict, anomalies: dict, references: References) -> dict:
    """Return the variables of report.html."""
    splits = statistics["splits"]
    frame_level = any(split["frames_per_video"] for split in splits.values())
    return {
        "kind": "Data validation",
        "verdict": _verdict(anomalies, sum(split["records"] for split in splits.values())),
        "fingerprint": statistics["fingerprint"],
        "splits": splits,
        "anomalies": anomalies["anomalies"],
        "overview": _overview(splits, frame_level),
        "label_frequency": [(name, _by_rank(split["labels"])) for name, split in splits.items()],
        "published": _published(splits, references),
        "labels_per_video": _distributions(splits, "labels_per_video"),
        "frames_per_video": _distributions(splits, "frames_per_video", FRAMES_STEP),
        "frames_step": FRAMES_STEP,
        "features": _features(splits),
        "comparisons": [_comparison(row, references) for row in statistics["comparisons"]],
        "unit": "frame" if frame_level else "video",
    }


def _verdict(anomalies: dict, num_records: int) -> dict:
    """The heading, and the title, text and tone of the banner."""
    severities = [row["severity"] for row in anomalies["anomalies"]]
    errors, warnings = _num_kinds(severities, "error"), _num_kinds(severities, "warning")
    found = ", ".join(filter(None, (errors, warnings))) or "No problems"
    if not anomalies["passed"]:
        title, tone = "Failed", "bad"
    elif errors:
        title, tone = "Passed with errors", "doubtful"
    elif warnings:
        title, tone = "Passed with warnings", "good"
    else:
        title, tone = "Passed", "good"
    return {
        "heading": f"Validation {title.lower()}",
        "title": title,
        "text": f"{found} in {num_records:,} records.",
        "tone": tone,
    }


def _num_kinds(severities: list[str], severity: str) -> str:
    number = severities.count(severity)
    if not number:
        return ""
    return f"{number} kind of {severity}" if number == 1 else f"{number} kinds of {severity}s"


def _overview(splits: dict, frame_level: bool) -> list[tuple]:
    """Rows of a table: the name of a statistic, and its value for each split."""
    rows = [
        ("Files", lambda s: f"{len(s['files']):,}"),
        ("Records per file", lambda s: _range([file["records"] for file in s["files"]])),
        ("Total size", lambda s: _size(s["bytes"])),
        ("Records", lambda s: f"{s['records']:,}"),
        ("Valid videos", lambda s: f"{s['videos']:,}"),
        ("Unlabelled videos", lambda s: f"{sum(s['labels_per_video'][:1]):,}"),
        ("Labels per video", lambda s: _mean_text(s["labels_per_video"])),
        ("Classes with videos", lambda s: _classes(s["labels"])),
    ]
    if frame_level:
        rows.append(("Frames per video", lambda s: _mean_text(s["frames_per_video"])))
    return [(name, *(text(split) for split in splits.values())) for name, text in rows]


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _size(num_bytes: int) -> str:
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2)):
        if num_bytes >= 1000**power:
            return f"{num_bytes / 1000**power:.3g} {unit}"
    return f"{num_bytes / 1000:.3g} kB"


def _mean_text(counts: list[int]) -> str:
    """Mean and max of a distribution: `counts[i]` videos have the value i."""
    videos = sum(counts)
    if not videos:
        return "none"
    mean = np.dot(counts, np.arange(len(counts))) / videos
    return f"{mean:.2f} (max {len(counts) - 1})"


def _classes(labels: list[int]) -> str:
    return f"{np.count_nonzero(labels):,} of {len(labels):,}"


def _by_rank(labels: list[int]) -> list[tuple[int, int]]:
    """(rank, number of videos) of the classes with videos, in descending order of frequency."""
    counts = np.sort(np.array(labels))[::-1]
    counts = counts[counts > 0]
    ranks = np.unique(np.geomspace(1, max(len(counts), 1), MAX_POINTS).round().astype(int))
    return [(int(rank), int(counts[rank - 1])) for rank in ranks if rank <= len(counts)]


def _published(splits: dict, references: References) -> list[tuple]:
    """(published count, count here, class name) of each class in the first split."""
    labels = next(iter(splits.values()))["labels"]
    counts = references.published_counts
    return [
        (counts[i], videos, f"{references.class_names[i]}: {videos:,} of {counts[i]:,}")
        for i, videos in enumerate(labels)
        if videos and counts.get(i)
    ]


def _distributions(splits: dict, key: str, step: int = 1) -> list[tuple[str, list]]:
    """One line per split: (value, % of the videos with a value in [value, value + step))."""
    curves = []
    for name, split in splits.items():
        counts = np.array(split[key])
        if counts.any():
            sums = np.add.reduceat(counts, np.arange(0, len(counts), step))
            percentages = 100 * sums / counts.sum()
            curves.append((name, [(i * step, float(share)) for i, share in enumerate(percentages)]))
    return curves


def _features(splits: dict) -> list[dict]:
    names = dict.fromkeys(name for split in splits.values() for name in split["features"])
    return [_feature(name, splits) for name in names]


def _feature(name: str, splits: dict) -> dict:
    present = {
        split: of["features"][name] for split, of in splits.items() if name in of["features"]
    }
    first = next(iter(present.values()))
    return {
        "name": name,
        "size": len(first["mean"]),
        "rows": [(split, *_feature_row(statistics)) for split, statistics in present.items()],
        "curves": [(split, _density(of["histogram"])) for split, of in present.items()],
        "split": next(iter(present)),
        "bands": _bands(first),
    }


def _feature_row(statistics: dict) -> tuple:
    means, stds = np.array(statistics["mean"]), np.array(statistics["std"])
    low, high = np.array(statistics["min"]), np.array(statistics["max"])
    zeros = np.sum(statistics["zeros"]) / (statistics["count"] * len(means))
    return (
        f"{statistics['count']:,}",
        f"{means.mean():.3f}",
        f"{np.sqrt(np.mean(stds**2) + np.var(means)):.3f}",
        f"{low.min():.3f}",
        f"{high.max():.3f}",
        f"{100 * zeros:.2g}%",
        f"{np.count_nonzero(low == high):,}",
    )


def _density(histogram: dict) -> list[tuple[float, float]]:
    """(center of the bin, % of the values)."""
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    percentages = 100 * counts / max(counts.sum(), 1)
    centers = (edges[:-1] + edges[1:]) / 2
    return [(round(float(x), 3), float(y)) for x, y in zip(centers, percentages, strict=True)]


def _bands(statistics: dict) -> list[tuple[str, list]]:
    """One line per quantile over the dimensions, sorted by median: (position in %, value)."""
    order = np.argsort(statistics["quantiles"]["0.5"], kind="stable")
    chosen = np.unique(np.linspace(0, len(order) - 1, MAX_POINTS).round().astype(int))
    curves = []
    for name, key in BANDS:
        values = np.array(statistics.get(key) or statistics["quantiles"][key])[order]
        curve = [(100 * i / max(len(values) - 1, 1), values[i]) for i in chosen]
        curves.append((name, [(round(float(x), 1), round(float(y), 4)) for x, y in curve]))
    return curves


def _comparison(row: dict, references: References) -> dict:
    labels = row["labels"]
    return {
        "title": f"{row['split']} compared with {row['against']}",
        "rows": [
            *_label_rows(labels),
            *(_shift_row(name, feature) for name, feature in row["features"].items()),
        ],
        "worst": [
            (
                references.class_names[worst["class"]],
                f"{worst['share']:.3%}",
                f"{worst['other_share']:.3%}",
            )
            for worst in (labels["worst"][:NUM_WORST] if labels else [])
        ],
    }


def _label_rows(labels: dict | None) -> list[tuple]:
    if labels is None:
        return []
    return [
        (
            "Labels: max difference in relative frequency",
            *_distance(labels, "linf"),
            "",
        ),
        ("Labels: Jensen-Shannon distance", *_distance(labels, "js"), ""),
    ]


def _shift_row(name: str, feature: dict) -> tuple:
    worst = ", ".join(str(row["dimension"]) for row in feature["worst"][:NUM_WORST])
    distance = f"{name}: max shift of a mean, in standard deviations"
    return (distance, *_distance(feature, "shift"), f"dimensions {worst}")


def _distance(distances: dict, name: str) -> tuple[str, str]:
    """The distance, and its excess over the distance expected by chance."""
    return f"{distances[name]:.4f}", f"{distances[f'{name}_drift']:.4f}"
