"""Schedules on a real Kubeflow: firing, changed while a run is in progress, deleted."""

import subprocess
import sys
import uuid

import pytest

from pipeline.paths import ROOT
from tests.cluster.conftest import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def schedule(cluster):
    """Runs `python -m pipeline schedule` with a name of its own; deletes it in the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"

    def schedule(*words, code: int = 0) -> str:
        action = [word for word in words[:1] if "=" not in word]
        command = [sys.executable, "-m", "pipeline", "schedule", *action, f"--name={name}"]
        command += [f"--pipeline={cluster.pipeline}", *words[len(action) :]]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    schedule.name = name
    yield schedule
    subprocess.run(
        [sys.executable, "-m", "pipeline", "schedule", "delete", f"--name={name}", "--force"],
        cwd=ROOT,
    )


def test_a_schedule_is_changed_without_ending_its_run(cluster, schedule):
    every_minute = ["--cron=* * * * *", *cluster.parameters("schedule", "num_epochs=400")]
    assert "(created)" in schedule(*every_minute)
    api = cluster.client

    def schedules():
        listed = api.list_recurring_runs(page_size=100).recurring_runs or []
        return [one for one in listed if one.display_name == schedule.name]

    (old,) = schedules()

    def runs_of(one):
        runs = api.list_runs(page_size=50, sort_by="created_at desc").runs or []
        return [run for run in runs if run.recurring_run_id == one.recurring_run_id]

    (run,) = wait_for(lambda: [run for run in runs_of(old) if run.state == "RUNNING"][:1])
    assert "in progress" in schedule("delete", code=1)
    assert "It has 1 run in progress" in schedule("--cron=0 0 1 1 *", *every_minute[1:])
    states = {one.recurring_run_id: one.status for one in schedules()}
    assert sorted(states.values()) == ["DISABLED", "ENABLED"]
    assert states[old.recurring_run_id] == "DISABLED"

    ended = wait_for(
        lambda: (found := api.get_run(run.run_id)).state in ("SUCCEEDED", "FAILED") and found, 900
    )
    assert ended.state == "SUCCEEDED"  # not killed with its schedule
    schedule("--cron=0 0 1 1 *", *every_minute[1:])
    (new,) = schedules()
    assert new.recurring_run_id != old.recurring_run_id
    assert "(deleted)" in schedule("delete")
    assert schedules() == []


def test_a_scheduled_run_takes_the_newest_version_and_the_files_of_its_day(cluster, schedule):
    for offset in (0, 86400):  # midnight may come
        day = f"$(date -u -d @$(($(date +%s) + {offset})) +%Y%m%d)"
        cluster.run("sh", "-c", f"cp -r {cluster.folder}/set {cluster.folder}/{day}")
    data = [f"{name}_data={cluster.folder}/{{date}}/{name}*" for name in ("train", "eval")]
    assert "the newest at the time" in schedule(
        "--latest", "--cron=* * * * *", *cluster.parameters("dated", *data)
    )
    api = cluster.client
    listed = api.list_recurring_runs(page_size=100).recurring_runs
    (made,) = [one for one in listed if one.display_name == schedule.name]
    assert made.pipeline_version_reference.pipeline_version_id is None

    def ended():
        runs = api.list_runs(page_size=50, sort_by="created_at desc").runs or []
        ours = [run for run in runs if run.recurring_run_id == made.recurring_run_id]
        return [run for run in ours if run.state in ("SUCCEEDED", "FAILED")]

    (run, *_) = wait_for(ended, 1200)
    assert run.state == "SUCCEEDED"
    assert "(paused)" in schedule("pause")
