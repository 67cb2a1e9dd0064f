"""The quality benchmark: its numbers by hand, and a whole run on tiny shards."""

import csv
import sys

import numpy as np
import pytest

from benchmarks import quality
from trainer.common.errors import UserError
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records
from trainer.evaluation.metrics import average_precision


def test_an_unknown_recipe_names_those_that_there_are():
    with pytest.raises(UserError, match=r"--recipes must be out of \[.*'moe'.*\]; got 'nothing'"):
        quality.QualityBenchmark(recipes="nothing")


def test_calibration_error_by_hand():
    # 20 groups of 2: half predict 0.25 and are never right, half 0.75 and are always right.
    scores = np.array([0.25] * 20 + [0.75] * 20)
    bins = quality.reliability(scores, scores > 0.5)
    assert quality.expected_calibration_error(bins) == pytest.approx(0.25)


def predictions(rng, num_videos, quality_of_model):
    """Scores, classes and hits of 2 predictions per video, and the number of positives."""
    hits = rng.random([num_videos, 2]) < 0.4
    scores = quality_of_model * hits + rng.random([num_videos, 2])
    order = np.argsort(-scores, axis=1)
    scores, hits = (np.take_along_axis(x, order, axis=1).ravel() for x in (scores, hits))
    return scores, np.zeros(num_videos * 2, int), hits, hits.sum() + 10


def test_gap_with_equal_weights_is_gap():
    scores, classes, hits, _ = predictions(np.random.default_rng(0), 50, 0.5)
    got = quality._weighted_gap(np.ones(50), *quality._sorted((scores, classes, hits, 60), 2))
    expected = average_precision(scores, hits, np.zeros(100, int), np.array([60]))[0]
    assert got == pytest.approx(expected)


def test_the_interval_of_a_difference():
    good, bad = (predictions(np.random.default_rng(0), 400, q) for q in (2.0, 0.1))
    low, high = quality.bootstrap_difference(good, bad, top_k=2)
    assert 0 < low < high
    assert quality.bootstrap_difference(good, good, top_k=2) == (0, 0)


@pytest.mark.slow
def test_a_whole_run_writes_the_table_and_plots(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for shard in ("train0", "train1", "eval0"):
        videos = []
        for i in range(30):
            vector = rng.normal(size=25).astype(np.float32)
            context = {"id": f"{shard}-{i}".encode(), "labels": vector.argsort()[-2:]}
            videos.append(encode_example(context | {"rgb": vector[:20], "audio": vector[20:]}))
        write_records(str(tmp_path / f"{shard}.tfrecord"), videos)
    flags = "--feature_names=rgb,audio --feature_sizes=20,5 --num_classes=25 --num_epochs=2"
    argv = [
        "quality",
        "--recipes=logistic,moe",
        f"--train={tmp_path}/train?.tfrecord",
        f"--eval={tmp_path}/eval?.tfrecord",
        "--seeds=1",
        f"--output_dir={tmp_path}/out",
        f"--flags={flags}",
    ]
    monkeypatch.setattr(sys, "argv", argv)
    quality.main(argv)
    quality.main(argv)  # trained already; looked at once more
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [row["recipe"] for row in rows] == ["moe", "logistic"]
    assert all(0 <= float(row["gap"]) <= 1 for row in rows)
    assert rows[1]["gap_difference"]
    assert "| moe |" in (tmp_path / "out" / "table.md").read_text()
    assert len((tmp_path / "out" / "looks.csv").read_text().splitlines()) == 1 + 4
    for plot in ("gap", "strata", "reliability"):
        assert (tmp_path / "out" / f"{plot}.png").stat().st_size > 1000
