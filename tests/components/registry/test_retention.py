import json
from datetime import UTC, datetime, timedelta

import pytest

from components.registry.registry import publish, read_champion, rollback, versions
from components.registry.retention import prune
from trainer.common import storage
from trainer.common.errors import UserError

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def output_dir(publish_dir) -> str:
    return publish_dir.removesuffix("/published")


def leave_run(output_dir: str, name: str, days: int) -> tuple[str, str]:
    """Write what a run of `days` ago leaves; return its folder and its train_dir."""
    run_dir, train_dir = f"{output_dir}/runs/{name}", f"{output_dir}/train/{name}"
    started = json.dumps({"started": (NOW - timedelta(days=days)).isoformat()})
    storage.write_text(f"{run_dir}/plan.json", json.dumps({"train_dir": train_dir}))
    storage.write_text(f"{run_dir}/steps/validate_data.json", started)
    storage.write_text(f"{train_dir}/steps/train.json", started)
    storage.write_text(f"{train_dir}/checkpoints/step-1/variables", "x")
    return run_dir, train_dir


def publish_run(exported, publish_dir: str, output_dir: str, name: str, days: int):
    """Publish the model of a run."""
    run_dir, train_dir = leave_run(output_dir, name, days)
    model_dir, metrics_file = exported(name)
    champion = read_champion(publish_dir)
    lineage = {"run_dir": run_dir, "train_dir": train_dir}
    publish(model_dir, publish_dir, metrics_file, champion and champion.version, lineage)


def names(output_dir: str, folder: str) -> set[str]:
    return {name.split("/")[0] for name in storage.files_below(f"{output_dir}/{folder}")}


def test_the_champion_and_its_predecessors_are_kept_with_what_made_them(
    exported, publish_dir, output_dir
):
    for number, name in enumerate("abcd"):
        publish_run(exported, publish_dir, output_dir, name, days=100 - number)
    for name, days in (("rejected", 90), ("new", 50), ("in_progress", 1)):
        leave_run(output_dir, name, days)
    for name in ("20260101000000dead", "20260228120000beef"):  # of killed publishers
        storage.write_text(f"{publish_dir}/staging/{name}/saved_model.pb", "x")

    deleted = prune(output_dir, publish_dir, 1, 1, dry_run=True, now=NOW)
    assert versions(publish_dir) == ["1", "2", "3", "4"]
    assert prune(output_dir, publish_dir, 1, 1, now=NOW) == deleted
    assert versions(publish_dir) == ["3", "4"]
    assert names(output_dir, "runs") == names(output_dir, "train") == {"c", "d", "in_progress"}
    assert names(publish_dir, "staging") == {"20260228120000beef"}
    assert read_champion(publish_dir).version == "4"
    rollback(publish_dir)
    # The champion is c again, as version 5, and its own run is kept.
    prune(output_dir, publish_dir, 0, 0, now=NOW)
    assert versions(publish_dir) == ["5"]
    assert names(output_dir, "runs") == {"c", "in_progress"}


def test_nothing_is_deleted_without_a_champion(publish_dir, output_dir):
    storage.write_text(f"{publish_dir}/served/1/manifest.json", '{"version": "1", "metrics": {}}')
    assert prune(output_dir, publish_dir, 0, 0, now=NOW) == []
    assert versions(publish_dir) == ["1"]


def test_numbers_must_not_be_negative(tmp_path):
    with pytest.raises(UserError, match="--keep_versions must be 0 or more; got -1"):
        prune(str(tmp_path), f"{tmp_path}/published", -1, 0)
