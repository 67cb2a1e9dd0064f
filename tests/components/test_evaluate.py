import dataclasses
import json

import numpy as np
import pytest

from components import evaluate, evaluation_report
from components.export_model import export
from components.registry.registry import publish
from components.train import train
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records
from trainer.evaluation import evaluator
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.metrics import frequency_gap


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> str:
    """A shard of 30 videos with 3 features each; the label is the index of the largest."""
    path = str(tmp_path_factory.mktemp("data") / "videos.tfrecord")
    vectors = np.random.default_rng(0).normal(size=[30, 3]).astype(np.float32)
    write_records(
        path,
        [
            encode_example({"id": b"v%d" % i, "labels": [vector.argmax()], "rgb": vector})
            for i, vector in enumerate(vectors)
        ],
    )
    return path


@pytest.fixture(scope="module")
def train_small(videos, tmp_path_factory):
    """train_small(num_epochs, model): a train_dir."""
    output_dir = tmp_path_factory.mktemp("output")
    flags = ["--feature_names=rgb", "--feature_sizes=3", "--num_classes=3", "--batch_size=10"]

    def train_small(num_epochs, model="LogisticModel") -> str:
        train_dir = str(output_dir / f"{model}-{num_epochs}")
        train(videos, train_dir, [*flags, f"--num_epochs={num_epochs}", f"--model={model}"])
        return train_dir

    return train_small


@pytest.fixture
def published(videos, train_small, tmp_path):
    """A model of one epoch: publish_dir, version and metrics."""
    publish_dir, train_dir = str(tmp_path / "published"), train_small(1)
    scores = evaluate.evaluate(train_dir, videos, publish_dir, str(tmp_path / "first"))
    export(train_dir, str(tmp_path / "model"), videos)
    metrics_file = str(tmp_path / "first" / "metrics.json")
    version = publish(str(tmp_path / "model"), publish_dir, metrics_file, None)
    return publish_dir, version, scores["challenger"]


def test_first_model_has_no_champion(videos, train_small, tmp_path):
    train_dir, output_dir = train_small(2), str(tmp_path / "evaluation")
    metrics = evaluate.evaluate(train_dir, videos, str(tmp_path / "published"), output_dir)
    assert metrics == json.loads(storage.read_text(f"{output_dir}/metrics.json"))
    assert metrics["challenger"] == evaluator.evaluate(train_dir, videos).metrics
    assert metrics["challenger"]["num_videos"] == 30
    assert metrics["champion"] is metrics["champion_version"] is None
    assert (metrics["train_dir"], metrics["step"]) == (train_dir, 6)
    html = storage.read_text(f"{output_dir}/report.html")
    assert "LogisticModel after 6 steps" in html
    assert "Experts</h2>" not in html and not storage.exists(f"{output_dir}/experts.json")


@pytest.mark.slow
def test_mixture_of_experts_is_analyzed(videos, train_small, tmp_path):
    train_dir, publish_dir = train_small(1, "MoeModel"), str(tmp_path / "published")
    evaluate.evaluate(train_dir, videos, publish_dir, str(tmp_path / "first"))
    written = json.loads((tmp_path / "first" / "experts.json").read_text())
    assert written["num_videos"] == 30 == sum(written["num_positives"])
    assert np.sum(written["all_videos"]["gate_probabilities"], axis=1) == pytest.approx(
        np.ones(3), abs=1e-3
    )
    html = (tmp_path / "first" / "report.html").read_text()
    assert "Every class has 2 experts" in html and "Expert 2" in html and "Dummy" in html
    assert "; published:" not in html

    export(train_dir, str(tmp_path / "model"), videos)
    metrics_file = str(tmp_path / "first" / "metrics.json")
    publish(str(tmp_path / "model"), publish_dir, metrics_file, None)
    evaluate.evaluate(train_dir, videos, publish_dir, str(tmp_path / "second"))
    summary = written["summary"]
    html = (tmp_path / "second" / "report.html").read_text()
    assert f"; published: {summary['entropy']:.3f} and {summary['entropy_all_videos']:.3f}" in html


def test_champion_is_evaluated_on_the_same_videos(published, videos, train_small, tmp_path):
    publish_dir, version, scores = published
    metrics = evaluate.evaluate(train_small(2), videos, publish_dir, str(tmp_path / "second"))
    assert metrics["champion"] == pytest.approx(scores)
    assert metrics["champion_version"] == version
    assert metrics["challenger"]["loss"] < metrics["champion"]["loss"]
    gap = metrics["comparison"]["gap"]
    assert gap["challenger"]["value"] == metrics["challenger"]["gap"]
    difference = metrics["challenger"]["gap"] - metrics["champion"]["gap"]
    assert gap["difference"]["value"] == difference
    assert gap["difference"]["low"] <= difference <= gap["difference"]["high"]
    assert f"version {version}" in (tmp_path / "second" / "report.html").read_text()


@pytest.mark.slow
def test_error_names_a_champion_that_cannot_read_the_data(published, videos, train_small):
    publish_dir, version, _ = published
    manifest = f"{publish_dir}/served/{version}/manifest.json"
    storage.write_text(manifest, storage.read_text(manifest).replace('"rgb"', '"sound"'))
    with pytest.raises(UserError, match=f"served/{version}' cannot be evaluated on this data"):
        evaluate.evaluate(train_small(2), videos, publish_dir, f"{publish_dir}/evaluation")
    assert not storage.exists(f"{publish_dir}/evaluation")


@pytest.fixture
def result(evaluation_of) -> Evaluation:
    """Evaluation with three classes; no video has the last one."""
    metrics = {"gap": 0.5, "hit_at_1": 0.75, "perr": float("nan"), "map": 0.6, "loss": 2.5}
    counts = {"num_videos": 1234, "num_videos_without_labels": 1, "num_classes_with_videos": 2}
    return dataclasses.replace(
        evaluation_of([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3]], [[0], [0, 1]]),
        metrics=metrics | counts,
        average_precision=np.array([1.0, 0.2, np.nan]),
        num_positives=np.array([1000, 20, 0]),
        model_flags={"model": "MoeModel"},
        step=500,
        class_names=["Game", "<b>Car</b>", "Nobody's"],
    )


def metrics_of(result: Evaluation, champion: dict | None = None) -> dict:
    return {
        "challenger": evaluate._finite(result.metrics),
        "champion": champion,
        "champion_version": champion and "20260101000000",
        "comparison": {},
        "slices": [],
        "confidence": 0.95,
        "bootstrap_replicates": 500,
        "train_dir": "/train/key",
        "step": result.step,
    }


def test_metrics_that_are_not_finite_are_left_out(result):
    values = {"gap": 0.5, "perr": float("nan"), "loss": float("inf"), "num_videos": 3}
    assert evaluate._finite(values) == {"gap": 0.5, "num_videos": 3}


def test_report_of_a_first_model(result):
    html = evaluation_report.page(result, metrics_of(result), "/data/*.tfrecord")
    assert "MoeModel after 500 steps" in html and "Published model: none" in html
    assert "0.5000" in html and "1,234" in html and "\N{EN DASH}" in html  # PERR is missing
    assert "&lt;b&gt;Car" in html and "<b>Car" not in html
    assert "Nobody" not in html[html.index("All classes") :]
    content = html[: html.index("<script>")]
    assert "Difference" not in content and "nan" not in content


def test_report_with_a_champion(result):
    champion = {"gap": 0.4, "hit_at_1": 0.8, "map": 0.6, "loss": 2.0, "perr": 0.5}
    html = evaluation_report.page(result, metrics_of(result, champion), "/data/*.tfrecord")
    assert '<div class="note good">+0.1000 vs 0.4000</div>' in html
    assert '<div class="note bad">\N{MINUS SIGN}0.0500 vs 0.8000</div>' in html
    assert '<td class="number bad">+0.5000</td>' in html  # lower loss is better
    assert '<td class="number ">+0.0000</td>' in html


def test_rare_classes_are_neither_best_nor_worst(result):
    rows = [("rare", 1, 1.0), ("good", 30, 0.9), ("bad", 40, 0.1), ("fair", 50, 0.5)]
    result = dataclasses.replace(
        result,
        average_precision=np.array([row[2] for row in rows]),
        num_positives=np.array([row[1] for row in rows]),
        class_names=[row[0] for row in rows],
    )
    html = evaluation_report.page(result, metrics_of(result), "data")
    assert _first_cells(html, "Best classes", "Worst classes") == ["good", "fair", "bad"]
    assert _first_cells(html, "Worst classes", "Confusions") == ["bad", "fair", "good"]
    assert _first_cells(html, "All classes") == ["fair", "bad", "good", "rare"]
    assert "Among the classes with at least 10 videos." in html


def _first_cells(html: str, start: str, end: str = "</main>") -> list[str]:
    """The first cell of each table row between two headings."""
    text = html[html.index(start) : html.index(end)]
    return [row.split("<td>")[1].split("<")[0] for row in text.split("<tr>")[2:]]


def test_report_compares_the_models(evaluation_of, result):
    labels = [[0]] * 12 + [[1]] * 12
    scores = np.tile([0.9, 0.2], [24, 1])
    new, old = evaluation_of(scores, labels), evaluation_of(scores[:, ::-1], labels)
    new = dataclasses.replace(new, average_precision=np.array([0.8, 0.3]))
    old = dataclasses.replace(old, average_precision=np.array([0.5, 0.4]))
    estimate = {"value": 0.1, "low": 0.02, "high": 0.18, "p_value": 0.012}
    gap = {"challenger": estimate, "champion": estimate, "difference": estimate}
    row = {"slicing": "Labels", "slice": "2", "num_videos": 7, "num_positives": 14, "gap": gap}
    metrics = metrics_of(new, champion=new.metrics | {"gap": new.metrics["gap"] - 0.1})
    metrics |= {"comparison": {"gap": gap}, "slices": [row]}
    html = evaluation_report.page(new, metrics, "data", old)
    assert _first_cells(html, "What got better", "What got worse") == ["class 0"]
    assert _first_cells(html, "What got worse", "Calibration</h2>") == ["class 1"]
    assert "(+0.0200 to +0.1800)" in html and '<td class="number">0.012</td>' in html
    assert '<div class="note good">' in html  # GAP: the interval of the difference is above 0
    gap["difference"] = estimate | {"low": -0.02}
    assert '<div class="note good">' not in evaluation_report.page(new, metrics, "data", old)
    assert _first_cells(html, "Slices</h2>", "What got better") == ["Labels"]
    assert _first_cells(html, "Confusions</h2>", "Videos with the largest") == ["class 1"]
    assert ">100.0%</td>" in html  # every video of class 1
    assert "expected calibration error" in html.lower()


def test_report_of_every_class_is_small(evaluation_of):
    rng = np.random.default_rng(0)
    labels = [[int(i)] for i in rng.integers(0, 3862, 2000)]
    new = evaluation_of(rng.random([2000, 3862]), labels)
    new = dataclasses.replace(new, class_names=[f"A rather long name {i}" for i in range(3862)])
    html = evaluation_report.page(new, metrics_of(new, champion=new.metrics), "data", new)
    assert len(html) < 3e6


def test_classes_as_csv(evaluation_of):
    new = evaluation_of([[0.9, 0.8, 0.1], [0.7, 0.1, 0.2]], [[0], [0, 1]])
    old = dataclasses.replace(new, average_precision=np.array([0.25, 0.5]))  # one class less
    assert evaluation_report.classes_csv(new, old).splitlines() == [
        "class_id,name,videos,average_precision,published_average_precision,difference",
        "0,class 0,2,1.000000,0.250000,0.750000",
        "1,class 1,1,0.500000,0.500000,0.000000",
        "2,class 2,0,,,",
    ]
    assert evaluation_report.classes_csv(new).splitlines()[1] == "0,class 0,2,1.000000,,"


def test_slices_of_the_evaluation(videos, train_small, tmp_path):
    statistics = {"splits": {"train": {"labels": [3, 0, 200]}}}
    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    (tmp_path / "vocabulary.csv").write_text("Index,Name,Vertical1\n0,Game,Games\n1,Car,Autos\n")
    (tmp_path / "slices.csv").write_text("id,slice\n" + "".join(f"v{i},a\n" for i in range(7)))
    metrics = evaluate.evaluate(
        train_small(1),
        videos,
        str(tmp_path / "published"),
        str(tmp_path / "evaluation"),
        vocabulary=str(tmp_path / "vocabulary.csv"),
        statistics_file=str(tmp_path / "statistics.json"),
        slice_file=str(tmp_path / "slices.csv"),
        bootstrap_replicates=10,
    )
    found = {(row["slicing"], row["slice"]): row for row in metrics["slices"]}
    assert [key[1] for key in found if key[0] == "Training videos of the class"] == [
        *("0", "1\N{EN DASH}4", "100+")
    ]
    assert found["Labels of the video", "1"]["num_videos"] == 30
    assert {key[1] for key in found if key[0] == "Vertical of the class"} == {"Autos", "Games"}
    assert found["Slice file", "a"]["num_videos"] == 7
    assert 0 < metrics["frequency_gap"] < 1


def test_first_model_policy_has_a_baseline(evaluation_of):
    """The GAP of a model that predicts the class frequencies for every video."""
    labels = [[0], [0, 1], [2], [0], []]
    frequencies = np.array([3, 1, 1]) / 5
    evaluation = evaluation_of(np.tile(frequencies, [5, 1]), labels)
    baseline = frequency_gap(evaluation.num_positives, 5)
    # Classes 1 and 2 are equally frequent: as a model they are one group of equal scores.
    assert baseline == pytest.approx(evaluation.metrics["gap"], abs=0.01)
