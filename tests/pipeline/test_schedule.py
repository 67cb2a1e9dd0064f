import re
from datetime import timedelta

import pytest

from pipeline.__main__ import main

PARAMETERS = ["train_data=gs://b/train*", "eval_data=gs://b/eval*", "output_dir=gs://b/out"]
NIGHTLY = ["--cron=0 2 * * *", *PARAMETERS]


@pytest.fixture
def run(server, compiled, capsys):
    """Run the command; return its output."""

    def run(*words):
        flags = [f"--host={server.url}", f"--pipeline={compiled['kubeflow']}"]
        action = [word for word in words[:1] if "=" not in word]
        with pytest.raises(SystemExit) as exit:
            main(["schedule", *action, *flags, *words[len(action) :]])
        if exit.value.code:
            raise exit.value
        return capsys.readouterr().out

    return run


def test_new_schedule_has_the_documented_defaults(server, run):
    out = run(*NIGHTLY)
    made = server.only("recurringruns")
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert made["no_catchup"] is True
    assert made["max_concurrency"] == "1"
    assert made["status"] == "ENABLED"
    assert made["display_name"] == "yt8m-nightly"
    assert made["runtime_config"]["parameters"] == dict(p.split("=") for p in PARAMETERS)
    assert made["pipeline_version_reference"] == {
        "pipeline_id": server.only("pipelines")["pipeline_id"],
        "pipeline_version_id": server.only("versions")["pipeline_version_id"],
    }
    lines = out.splitlines()
    assert lines[0] == "At 02:00 every day (UTC), next:"
    assert all(re.fullmatch(r"  \w{3} \d\d \w{3} \d{4} 02:00:00", line) for line in lines[1:4])
    assert lines[4] == "Schedule: yt8m-nightly (created)"


def test_same_schedule_is_unchanged(server, run):
    run(*NIGHTLY)
    before = dict(server.items["recurringruns"])
    out = run(*NIGHTLY)
    assert server.items["recurringruns"] == before
    assert "(unchanged)" in out
    assert [
        method for method, path in server.requests if "recurring" in path and method != "GET"
    ] == ["POST"]


@pytest.mark.parametrize(
    "change",
    [
        ["--cron=0 3 * * *"],
        ["num_epochs=9"],
        ["--no-cache"],
        ["--latest"],
        ["--catchup"],
        ["--max_concurrency=2"],
        ["--service_account=trainer"],
        ["--pipeline_root=gs://b/root"],
        ["--experiment=other"],
    ],
)
def test_changed_schedule_is_replaced(server, run, change):
    run(*NIGHTLY)
    (before,) = server.items["recurringruns"]
    assert "(updated)" in run(*NIGHTLY, *change)
    (after,) = server.items["recurringruns"]
    assert after != before
    assert "(unchanged)" in run(*NIGHTLY, *change)


def test_duplicates_of_a_schedule_are_deleted(server, run):
    run(*NIGHTLY)
    made = server.only("recurringruns")
    body = {name: made[name] for name in ("experiment_id", "mode", "trigger", "max_concurrency")}
    reference = {"pipeline_version_reference": made["pipeline_version_reference"]}
    for name in ("yt8m-nightly", "yt8m-nightly", "another", "yt8m-nightly-2"):
        server.create("recurringruns", {**body, **reference, "display_name": name})
    run(*NIGHTLY)
    names = [item["display_name"] for item in server.items["recurringruns"].values()]
    assert sorted(names) == ["another", "yt8m-nightly", "yt8m-nightly-2"]
    assert made["recurring_run_id"] in server.items["recurringruns"]


@pytest.mark.parametrize("fault", ["lost", 503])
def test_schedule_is_created_once_when_an_answer_is_lost(server, run, fault):
    server.faults = [("POST", "recurringruns$", fault)]
    run(*NIGHTLY)
    assert server.faults == []
    assert len(server.items["recurringruns"]) == 1


def start_run(server, schedule: dict, state: str = "RUNNING") -> dict:
    """Start a run of a schedule, as the server does when it fires."""
    run = {"display_name": "run", "state": state}
    return server.put("runs", {**run, "recurring_run_id": schedule["recurring_run_id"]})


def test_replacing_a_schedule_does_not_end_its_run(server, run):
    run(*NIGHTLY)
    old = server.only("recurringruns")
    in_progress = start_run(server, old)
    start_run(server, old, "SUCCEEDED")

    out = run(*NIGHTLY, "num_epochs=2")
    assert "(updated)" in out and "It has 1 run in progress" in out
    assert len(server.items["recurringruns"]) == 2
    new = next(item for item in server.items["recurringruns"].values() if item is not old)
    assert (old["status"], new["status"]) == ("DISABLED", "ENABLED")

    assert "(unchanged)" in run(*NIGHTLY, "num_epochs=2")
    assert len(server.items["recurringruns"]) == 2
    run("pause")
    run("resume")
    assert (old["status"], new["status"]) == ("DISABLED", "ENABLED")

    in_progress["state"] = "SUCCEEDED"
    run(*NIGHTLY, "num_epochs=2")
    assert server.only("recurringruns") is new


def test_schedule_with_a_run_in_progress_is_deleted_only_with_force(server, run):
    run(*NIGHTLY)
    run_id = start_run(server, server.only("recurringruns"), "PENDING")["run_id"]
    with pytest.raises(SystemExit, match=f"has 1 run in progress.*\n.*/runs/details/{run_id}"):
        run("delete")
    assert len(server.items["recurringruns"]) == 1
    run("delete", "--force")
    assert server.items["recurringruns"] == {}


def test_schedule_is_not_replaced_when_it_is_about_to_fire(server, run, monkeypatch):
    run(*NIGHTLY)
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr(
        "pipeline.cron.next_firings", lambda _, now, n: [now + timedelta(seconds=3)] * n
    )
    run(*NIGHTLY, "num_epochs=2")
    assert [5 < seconds <= 8 for seconds in slept if seconds > 1] == [True]


def test_deleting_twice_is_not_an_error(server, run):
    run(*NIGHTLY)
    server.faults = [("DELETE", "recurringruns", "lost")]
    run(*NIGHTLY, "num_epochs=2")
    assert len(server.items["recurringruns"]) == 1


def test_old_schedule_stays_if_the_new_one_cannot_be_created(server, run):
    run(*NIGHTLY)
    before = dict(server.items["recurringruns"])
    server.faults = [("POST", "recurringruns$", 400)]
    with pytest.raises(SystemExit, match="refused "):
        run(*NIGHTLY, "num_epochs=2")
    assert server.items["recurringruns"] == before


def test_latest_runs_the_newest_version(server, run):
    assert "Version:  the newest at the time" in run(*NIGHTLY, "--latest")
    reference = server.only("recurringruns")["pipeline_version_reference"]
    assert reference == {"pipeline_id": server.only("pipelines")["pipeline_id"]}


def test_replaced_schedule_stays_paused(server, run):
    run(*NIGHTLY)
    assert "(paused)" in run("pause")
    assert server.only("recurringruns")["status"] == "DISABLED"
    assert "paused as before" in run(*NIGHTLY)
    assert "(updated, paused as before)" in run(*NIGHTLY, "num_epochs=2")
    assert server.only("recurringruns")["status"] == "DISABLED"
    assert "(resumed)" in run("resume")
    assert server.only("recurringruns")["status"] == "ENABLED"


def test_schedules_are_listed_and_deleted(server, run):
    run(*NIGHTLY)
    run(*NIGHTLY, "--name=weekly", "--cron=0 3 * * 0")
    run("pause", "--name=weekly")
    assert run("list").splitlines() == [
        "weekly                   paused   At 03:00 on Sunday (UTC)",
        "yt8m-nightly             on       At 02:00 every day (UTC)",
    ]
    assert "(deleted)" in run("delete", "--name=weekly")
    assert server.only("recurringruns")["display_name"] == "yt8m-nightly"
    run("delete")
    assert run("list") == "There are no schedules.\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (PARAMETERS, "A schedule needs --cron"),
        (["--cron=0 2 * *", *PARAMETERS], "has 5 or 6 fields"),
        ([*NIGHTLY, "run_name=mine"], "leave run_name out"),
        ([*NIGHTLY, "--max_concurrency=11"], "--max-concurrency must be 1 to 10; got 11"),
        ([*NIGHTLY, "--target=mars"], "'mars' is not one of 'kubeflow', 'vertex'"),
        (["pause", "--name=x"], "There is no schedule 'x'"),
        (["pause", "num_epochs=2"], "The action pause takes no parameters; got 1"),
        (["stop"], "The action must be one of set, list, pause, resume, delete"),
    ],
)
def test_mistake_in_a_schedule(server, run, words, message):
    with pytest.raises(SystemExit, match=message):
        run(*words)
    assert server.items["recurringruns"] == {}


def test_dry_run_sends_nothing(server, run):
    out = run(*NIGHTLY, "--dry-run")
    assert server.requests == []
    assert "cron:            0 0 2 * * *" in out
