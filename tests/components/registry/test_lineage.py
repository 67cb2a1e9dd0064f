import json

import pytest

from components.registry.lineage import lineage, statistics_of, training_statistics
from components.registry.registry import publish
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.manifest import File, Manifest

FLAGS = {
    "feature_names": "rgb",
    "feature_sizes": "2",
    "frame_features": False,
    "num_classes": 3,
}


def test_lineage_names_data_code_images_parameters_and_run(tmp_path):
    data = Manifest((File("a", 10, 1, 5, "00"), File("b", 10, 1, 7, "11")))
    (tmp_path / "x.manifest.json").write_text(data.to_json())
    run = {"run_id": "42", "commit": "0123", "images": {"data": "d@sha256:1"}, "parameters": {}}
    plan = {f"{split}_data": f"{tmp_path}/x.manifest.json" for split in ("train", "eval")}
    files = {"run": run, "plan": plan | {"train_dir": "train/1"}, "verdict": {"accepted": True}}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = lineage(str(tmp_path))
    assert len(found.pop("code_digest")) == 64
    split = {"manifest": f"{tmp_path}/x.manifest.json", "files": 2, "records": 12}
    split["content_key"] = data.content_key
    assert found == run | {
        "run_dir": str(tmp_path),
        "data": {"train": split, "eval": split},
        "train_dir": "train/1",
        "verdict": {"accepted": True},
    }


@pytest.fixture
def published(exported, tmp_path) -> str:
    """A registry with a model of the run tmp_path/run."""
    model_dir, metrics_file = exported("a")
    manifest = storage.read_json(f"{model_dir}/manifest.json") | {"model_flags": FLAGS}
    storage.write_text(f"{model_dir}/manifest.json", json.dumps(manifest))
    storage.write_text(f"{tmp_path}/run/validation/statistics.json", "{}")
    publish(model_dir, f"{tmp_path}/published", metrics_file, None, {"run_dir": f"{tmp_path}/run"})
    return f"{tmp_path}/published"


def test_drift_is_measured_against_the_published_models_data(published, tmp_path):
    expected = f"{tmp_path}/run/validation/statistics.json"
    assert training_statistics(published, FLAGS | {"model": "MoeModel"}) == expected


def test_statistics_of_a_model_are_those_of_the_run_that_published_it(published, tmp_path):
    expected = f"{tmp_path}/run/validation/statistics.json"
    assert statistics_of(f"{published}/served/1") == expected
    assert statistics_of(f"{tmp_path}/model-a") == ""  # exported, but not published
    assert statistics_of(f"{tmp_path}/train_dir") == ""


def test_there_is_no_baseline_of_another_format_or_without_a_run(published, tmp_path):
    assert training_statistics(f"{tmp_path}/nothing", FLAGS) == ""
    assert training_statistics(published, FLAGS | {"num_classes": 4}) == ""
    storage.delete_tree(f"{tmp_path}/run")
    assert training_statistics(published, FLAGS) == ""


def test_a_damaged_registry_is_an_error(tmp_path):
    storage.write_text(f"{tmp_path}/champion.json", "{}")
    with pytest.raises(UserError, match="champion"):
        training_statistics(str(tmp_path), FLAGS)
