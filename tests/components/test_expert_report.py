import json

import numpy as np
import pytest
import tensorflow as tf

from components import expert_report
from trainer.evaluation.experts import ExpertAnalysis, ExpertMetrics

CLASS_NAMES = ["Split", "<b>Alone</b>", "Never", "Rare", "Absent", "Mixed"]


def analyze(gate_probabilities: dict[int, list[list[float]]]) -> ExpertAnalysis:
    """Analyze videos of one class each; the gate probabilities of the other classes are equal.

    Args:
        gate_probabilities: class id -> those of each of its videos.
    """
    metrics = ExpertMetrics(len(CLASS_NAMES), 3)
    for class_id, videos in gate_probabilities.items():
        for video in videos:
            gates = np.full([1, 3, len(CLASS_NAMES)], 1 / 3)
            gates[0, :, class_id] = video
            metrics.add(tf.constant(gates, tf.float32), tf.constant([[class_id, -1]]))
    return metrics.result()


@pytest.fixture
def result() -> ExpertAnalysis:
    return analyze(
        {
            0: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            1: [[0.0, 0.9, 0.1], [0.0, 0.8, 0.2], [0.0, 0.9, 0.1]],
            2: [[0.0, 0.0, 1.0], [0.0, 0.1, 0.9]],
            3: [[1.0, 0.0, 0.0]],
            5: [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]],
        }
    )


def test_classes_with_few_videos_are_neither_counted_nor_listed(result):
    section = expert_report.section(result, None, CLASS_NAMES, min_videos=2)
    assert section["num_counted"] == 4
    counts = section["new"]
    assert (counts["specialized"], counts["single_expert"], counts["collapsed"]) == (1, 1, 1)
    assert [row["name"] for row in section["one_expert"]] == ["<b>Alone</b>", "Never"]
    assert section["specialized"][0]["name"] == "Split"
    assert section["specialized"][0]["specialization"] == pytest.approx(1, abs=1e-6)
    assert sum(section["bin_counts"]) == 5  # every class that has positives


def test_json_has_every_class(result):
    text = expert_report.as_json(result, min_videos=2)
    assert "NaN" not in text
    written = json.loads(text)
    assert written["experts"] == ["Expert 1", "Expert 2", "Dummy"]
    assert written["num_videos"] == 10
    assert written["num_positives"] == [2, 3, 2, 1, 0, 2]
    own = written["positives"]
    assert own["gate_probabilities"][:2] == [[0.5, 0.5, 0], [0, 0.8667, 0.1333]]
    assert own["load"][1] == [0, 1, 0]
    assert own["gate_probabilities"][4] == [None] * 3 and own["entropy"][4] is None
    assert written["all_videos"]["gate_probabilities"][4] == [0.3333] * 3
    assert written["all_videos"]["entropy"][4] == 1
    assert written["specialization"][0] == 1 and written["specialization"][4] is None
    summary = written["summary"]
    assert (summary["num_classes"], summary["min_videos"]) == (4, 2)
    assert (summary["specialized"], summary["single_expert"], summary["collapsed"]) == (1, 1, 1)
    assert sum(summary["entropy_counts"]) == 5


def test_published_model_is_summarized_too(result):
    num_videos = result.positives.num_videos
    published = analyze({i: [[0.0, 0.0, 1.0]] * n for i, n in enumerate(num_videos)})
    section = expert_report.section(result, published, CLASS_NAMES, min_videos=2)
    assert (section["old"]["collapsed"], section["new"]["collapsed"]) == (4, 1)
    assert section["old"]["entropy"] == 0 < section["new"]["entropy"]
