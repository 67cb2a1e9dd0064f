"""The benchmark of routed experts on tiny shards with two kinds of videos."""

import json

import numpy as np
import pytest

from benchmarks import experts
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records


@pytest.mark.slow
def test_experts_specialize_in_two_kinds_of_videos(tmp_path):
    # In kind 0, the label is the number of the largest entry; in kind 1, of the smallest one.
    rng = np.random.default_rng(0)
    for name, num_videos in (("train", 600), ("eval", 200)):
        videos = []
        for i in range(num_videos):
            kind = i % 2
            vector = rng.normal(size=4)
            label = vector.argmin() if kind else vector.argmax()
            features = np.append(vector, [6.0 * kind, 6.0 * (1 - kind)]).astype(np.float32)
            context = {"id": f"{name}{i}".encode(), "labels": np.array([label + 4 * kind])}
            videos.append(encode_example(context | {"rgb": features}))
        write_records(str(tmp_path / f"{name}.tfrecord"), videos)
    argv = [
        "experts",
        f"--train={tmp_path}/train.tfrecord",
        f"--eval={tmp_path}/eval.tfrecord",
        "--vocabulary=none.csv",
        "--experts=2",
        "--picked=1",
        "--size=8",
        "--fractions=1",
        "--speed_experts=2",
        f"--output_dir={tmp_path}/out",
        "--flags=--feature_names=rgb --feature_sizes=6 --num_classes=8 --batch_size=50 "
        "--num_epochs=15 --base_learning_rate=0.02 --routed_soft_steps=0 --routed_dropout=0",
    ]
    experts.main(argv)
    result = json.loads((tmp_path / "out" / "experts.json").read_text())
    # The regimes are the kinds, and each expert is the best one in its regime.
    assert result["information"] > 0.9
    assert result["shuffled_information"] < 0.1
    assert np.argmin(result["loss"], axis=1).tolist() == [0, 1]
    assert result["swaps"]["router"] > result["swaps"]["next experts"] + 0.2
    gaps = {row["model"]: row["gap"] for row in result["curve"]}
    assert gaps["mixture"] > gaps["random routing"]
    assert "| 1 | mixture |" in (tmp_path / "out" / "experts.md").read_text()
