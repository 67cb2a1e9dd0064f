import json

import numpy as np
import pytest
import tensorflow as tf

from components import experts
from trainer.evaluation.experts import Experts, ExpertSums

CLASS_NAMES = ["Split", "<b>Alone</b>", "Never", "Rare", "Absent", "Mixed"]


def experts_of(weights: dict[int, list[list[float]]]) -> Experts:
    """Class id -> the weights on each of its own videos, where all other classes doubt."""
    sums = ExpertSums(len(CLASS_NAMES), 3)
    for class_id, videos in weights.items():
        for video in videos:
            trust = np.full([1, 3, len(CLASS_NAMES)], 1 / 3)
            trust[0, :, class_id] = video
            sums.add(tf.constant(trust, tf.float32), tf.constant([[class_id, -1]]))
    return sums.results()


@pytest.fixture
def result() -> Experts:
    return experts_of(
        {
            0: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            1: [[0.0, 0.9, 0.1], [0.0, 0.8, 0.2], [0.0, 0.9, 0.1]],
            2: [[0.0, 0.0, 1.0], [0.0, 0.1, 0.9]],
            3: [[1.0, 0.0, 0.0]],
            5: [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]],
        }
    )


def test_classes_with_few_videos_are_neither_counted_nor_listed(result):
    section = experts.section(result, None, CLASS_NAMES, least_videos=2)
    assert section["num_counted"] == 4
    counts = section["new"]
    assert (counts["specialised"], counts["single"], counts["collapsed"]) == (1, 1, 1)
    assert [row["name"] for row in section["collapsed"]] == ["<b>Alone</b>", "Never"]
    assert section["specialised"][0]["name"] == "Split"
    assert section["specialised"][0]["specialisation"] == pytest.approx(1, abs=1e-6)
    assert sum(section["bin_counts"]) == 5  # each that a video has


def test_the_json_holds_every_class(result):
    text = experts.as_json(result, least_videos=2)
    assert "NaN" not in text
    written = json.loads(text)
    assert written["experts"] == ["Expert 1", "Expert 2", "Dummy"]
    assert written["num_videos"] == 10
    assert written["num_positives"] == [2, 3, 2, 1, 0, 2]
    own = written["on_positives"]
    assert own["weights"][:2] == [[0.5, 0.5, 0], [0, 0.8667, 0.1333]]
    assert own["shares"][1] == [0, 1, 0]
    assert own["weights"][4] == [None] * 3 and own["entropy"][4] is None
    assert written["on_all"]["weights"][4] == [0.3333] * 3
    assert written["on_all"]["entropy"][4] == 1
    assert written["specialisation"][0] == 1 and written["specialisation"][4] is None
    summary = written["summary"]
    assert (summary["classes"], summary["least_videos"]) == (4, 2)
    assert (summary["specialised"], summary["single"], summary["collapsed"]) == (1, 1, 1)
    assert sum(summary["entropy_counts"]) == 5


def test_a_model_beside_the_published_one(result):
    num_videos = result.on_positives.num_videos
    old = experts_of({i: [[0.0, 0.0, 1.0]] * n for i, n in enumerate(num_videos)})
    section = experts.section(result, old, CLASS_NAMES, least_videos=2)
    assert (section["old"]["collapsed"], section["new"]["collapsed"]) == (4, 1)
    assert section["old"]["entropy"] == 0 < section["new"]["entropy"]
