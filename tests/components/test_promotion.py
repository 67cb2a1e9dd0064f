"""From training to publishing, with real components: which model replaces which."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.evaluate import evaluate
from components.export_model import export
from components.gate import decide
from components.registry.registry import publish, read_champion, rollback
from components.train import train
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records

NUM_CLASSES = 3
NOISE = {"rgb": 1.5, "audio": 0.6, "extra": 0.05}  # standard deviation; the signal is 1
MINORITY = 0.15  # fraction of the videos in slice b


def write_dataset(path, num_videos: int, seed: int, only_slice_a: bool = False) -> list[str]:
    """Write videos whose label shows in dimensions 0-2 in slice a, and 3-5 in slice b.

    Returns:
        The slice of each video.
    """
    rng = np.random.default_rng(seed)
    records, slices = [], []
    for i in range(num_videos):
        minority = rng.random() < MINORITY and not only_slice_a
        label = int(rng.integers(NUM_CLASSES))
        dimensions = slice(3, 6) if minority else slice(0, 3)
        video = {"id": b"%d-%d" % (seed, i), "labels": [label]}
        for name, noise in NOISE.items():
            video[name] = np.zeros(6, np.float32)
            video[name][dimensions] = np.eye(NUM_CLASSES)[label] + noise * rng.normal(size=3)
        records.append(encode_example(video))
        slices.append("b" if minority else "a")
    write_records(str(path), records)
    return slices


class Project:
    """A folder with data, in which models are trained and compared."""

    def __init__(self, folder):
        self.folder = folder
        write_dataset(folder / "train.tfrecord", 2000, seed=1)
        write_dataset(folder / "train-a.tfrecord", 2000, seed=2, only_slice_a=True)
        slices = write_dataset(folder / "eval.tfrecord", 1000, seed=3)
        rows = [f"3-{i},{name}\n" for i, name in enumerate(slices)]
        (folder / "slices.csv").write_text("id,slice\n" + "".join(rows))
        self.publish_dir = str(folder / "published")

    def run(self, name: str, features: str, seed: int = 1, data: str = "train.tfrecord", **rules):
        """Train, evaluate, judge and, if accepted, publish a model; return the verdict."""
        folder = self.folder / name
        sizes = ",".join("6" for _ in features.split(","))
        flags = [f"--feature_names={features}", f"--feature_sizes={sizes}", "--num_classes=3"]
        # Full batches, so that training converges and the seed does not matter.
        flags += ["--batch_size=2000", "--num_epochs=150", "--base_learning_rate=0.1"]
        train(str(self.folder / data), str(folder / "train"), [*flags, f"--seed={seed}"])
        metrics = evaluate(
            str(folder / "train"),
            str(self.folder / "eval.tfrecord"),
            self.publish_dir,
            str(folder / "evaluation"),
            slice_file=str(self.folder / "slices.csv"),
            bootstrap_replicates=200,
        )
        metrics_file = str(folder / "evaluation" / "metrics.json")
        verdict = decide(metrics_file, str(folder / "verdict.json"), **rules)
        if verdict.accepted:
            eval_data = str(self.folder / "eval.tfrecord")
            export(str(folder / "train"), str(folder / "model"), eval_data)
            expected = metrics["champion_version"]
            publish(str(folder / "model"), self.publish_dir, metrics_file, expected)
        return verdict

    def served_source(self) -> str:
        """The name of the run whose model a server reads: the one with the highest number."""
        versions = [int(path.name) for path in (self.folder / "published" / "served").iterdir()]
        manifest = self.folder / "published" / "served" / str(max(versions)) / "manifest.json"
        return Path(json.loads(manifest.read_text())["source"]).parent.name

    def champion(self) -> str | None:
        champion = read_champion(self.publish_dir)
        return champion.version if champion else None


def failed(verdict) -> set[str]:
    return {rule.name for rule in verdict.rules if not rule.passed}


@pytest.mark.slow
def test_only_a_significantly_better_model_replaces_the_published_one(tmp_path):
    project = Project(tmp_path)
    assert project.run("first", "rgb").outcome == "first"
    first = project.champion()

    again = project.run("again", "rgb", seed=2)
    assert (again.outcome, "improvement" in failed(again)) == ("rejected", True)
    assert project.champion() == first

    # Another record format than the published model's, on the same batches.
    better = project.run("better", "rgb,audio")
    assert (better.outcome, failed(better)) == ("accepted", set())
    second = project.champion()
    assert second != first

    # Almost perfect in slice a, but it never saw slice b.
    narrow = project.run("narrow", "extra", data="train-a.tfrecord")
    assert failed(narrow) == {"slice"}
    assert "GAP in Slice file: b" in narrow.reason
    assert narrow.outcome == "rejected"
    assert project.champion() == second

    forced = project.run("narrow", "extra", data="train-a.tfrecord", gate_force_reason="Test.")
    assert forced.outcome == "forced"
    assert project.champion() not in (first, second)
    assert json.loads((tmp_path / "narrow" / "verdict.json").read_text())["force_reason"] == "Test."
    assert project.served_source() == "narrow"

    rollback(project.publish_dir, "Slice b got worse.")
    assert project.served_source() == "better"
    # The next model is compared with the one that is served again.
    again = project.run("once more", "rgb,audio", seed=2)
    assert (again.outcome, "improvement" in failed(again)) == ("rejected", True)
