import json
import os
import re
import signal
import time
from datetime import datetime

import pytest

from components.summary import STEPS, recorded, summarise
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.manifest import File, Manifest

SCORES = {"gap": 0.55, "hit_at_1": 0.7, "perr": 0.6, "map": 0.1, "loss": 12.0}
OLD_SCORES = {"gap": 0.5, "hit_at_1": 0.7, "perr": 0.6, "map": 0.2, "loss": 13.0}


@pytest.fixture(params=["local", "gs"])
def run_dir(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "runs" / "nightly")
    return request.getfixturevalue("gcs_bucket") + "/runs/nightly"


RUN_ID = "1f2e3d4c"

VERDICT = {
    "accepted": True,
    "outcome": "forced",
    "reason": "GAP 0.55 beats <0.5.",
    "rules": [
        {
            "name": "improvement",
            "passed": False,
            "required": "GAP above 0.5",
            "measured": "GAP is 0.55",
            "numbers": {},
        }
    ],
    "force_reason": "the old one is broken",
}
COMPARISON = {
    "gap": {
        "challenger": {"value": 0.55, "low": 0.54, "high": 0.56, "p_value": 0.0},
        "champion": {"value": 0.5, "low": 0.49, "high": 0.51, "p_value": 0.0},
        "difference": {"value": 0.05, "low": 0.04, "high": 0.06, "p_value": 0.012},
    }
}


def manifest_of(*num_records: int) -> str:
    """A data manifest with as many files."""
    files = [
        File(f"/data/{i}.tfrecord", 1, 1, records, "0" * 64)
        for i, records in enumerate(num_records)
    ]
    return Manifest(tuple(files)).to_json()


def leave(
    run_dir: str, accepted: bool = True, until: str | None = "publish", run_id: str = RUN_ID
) -> None:
    """Write what the steps leave in a run's folder, all of them up to `until`."""
    if until is None:
        return
    files = {
        "validate_data": {
            "validation/report.html": "<p>",
            "run.json": {
                "parameters": {"train_data": "/data/train*", "num_epochs": 5},
                "commit": "0123456789ab",
                "images": {"data": "data@sha256:1", "trainer": "trainer@sha256:2"},
            },
            "plan.json": {
                "train_data": f"{run_dir}/train.manifest.json",
                "eval_data": f"{run_dir}/eval.manifest.json",
                "train_dir": f"{run_dir}-train",
                "trainer_argv": [],
            },
            "train.manifest.json": manifest_of(10, 20),
            "eval.manifest.json": manifest_of(10),
        },
        "train": {"../nightly-train/learning_curve.json": {"train/loss": [[1, 9.5], [2, 7.5]]}},
        "evaluate": {
            "evaluation/report.html": "<p>",
            "evaluation/metrics.json": {
                "challenger": SCORES,
                "comparison": COMPARISON,
                "champion": OLD_SCORES,
                "champion_version": "20260101000000",
                "train_dir": f"{run_dir}-train",
                "step": 10,
            },
        },
        "gate": {"verdict.json": VERDICT | {"accepted": accepted}},
        "export_model": {},
        "publish": {"publish.json": {"version": "2026", "path": "/out/published/2026"}},
    }
    for step in STEPS[: STEPS.index(until) + 1]:
        for name, content in files[step].items():
            text = content if isinstance(content, str) else json.dumps(content)
            storage.write_text(f"{run_dir}/{name}", text)
        with record(run_dir, step, run_id):
            pass


def record(run_dir: str, step: str, run_id: str = RUN_ID):
    """Record a step, in the folder in which it does so itself."""
    if step == "train":
        return recorded(f"{run_dir}-train", "", step)
    return recorded(run_dir, run_id, step)


def page_of(run_dir: str) -> str:
    return storage.read_text(f"{run_dir}/summary.html")


def states(html: str) -> list[str]:
    return re.findall(r'<li class="([^"]*)"', html)


# The states that backends hand to an exit handler: Kubeflow 2.17's are those of its metadata
# store, Vertex AI's and the local runner's are those of the run.
GOOD_STATES = ("COMPLETE", "CACHED", "SUCCEEDED")


@pytest.mark.parametrize("state", GOOD_STATES)
def test_a_published_model(run_dir, state):
    leave(run_dir)
    summary = summarise(run_dir, RUN_ID, state)
    assert summary == json.loads(storage.read_text(f"{run_dir}/summary.json"))
    steps = summary.pop("steps")
    assert list(steps) == list(STEPS)
    assert {step["state"] for step in steps.values()} == {"done"}
    assert summary.pop("started") == steps["validate_data"]["started"]
    assert summary.pop("ended") == steps["publish"]["ended"]
    assert 0 <= summary.pop("seconds") < 60
    assert summary == {
        "run_id": RUN_ID,
        "outcome": "published",
        "state": state,
        "ended_by": None,
        "error": None,
        "parameters": {"train_data": "/data/train*", "num_epochs": 5},
        "commit": "0123456789ab",
        "images": {"data": "data@sha256:1", "trainer": "trainer@sha256:2"},
        "data": {
            "train": {"manifest": f"{run_dir}/train.manifest.json", "files": 2, "records": 30},
            "eval": {"manifest": f"{run_dir}/eval.manifest.json", "files": 1, "records": 10},
        },
        "verdict": VERDICT,
        "accepted": True,
        "reason": "GAP 0.55 beats <0.5.",
        "metrics": SCORES,
        "champion": OLD_SCORES,
        "comparison": COMPARISON,
        "champion_version": "20260101000000",
        "train_dir": f"{run_dir}-train",
        "version": "2026",
        "model": "/out/published/2026",
        "reports": {
            "Validation": f"{run_dir}/validation/report.html",
            "Evaluation": f"{run_dir}/evaluation/report.html",
        },
    }
    html = page_of(run_dir)
    assert "<title>Published: nightly</title>" in html
    assert "GAP 0.55 beats &lt;0.5." in html
    assert states(html) == ["done"] * 6
    assert "+0.0500 vs 0.5000" in html and "/out/published/2026" in html
    assert "30 records in 2 files" in html and "0123456789ab" in html
    assert (
        "GAP above 0.5" in html and "gate_force_reason" in html and "the old one is broken" in html
    )
    assert "+0.0400 to +0.0600" in html and "0.012" in html
    assert "train/loss" not in html and "Loss of a batch" in html
    links = re.findall(r'href="([^"#]+)"', html)
    assert links[:2] == ["validation/report.html", "evaluation/report.html"]


def test_a_first_model_is_compared_with_none(tmp_path):
    run_dir = str(tmp_path / "run")
    leave(run_dir)
    estimate = COMPARISON["gap"]["challenger"]
    comparison = {"gap": {"challenger": estimate, "champion": None, "difference": None}}
    metrics = {"challenger": SCORES, "champion": None, "champion_version": None}
    storage.write_text(
        f"{run_dir}/evaluation/metrics.json", json.dumps(metrics | {"comparison": comparison})
    )
    assert summarise(run_dir, RUN_ID, "COMPLETE")["champion"] is None
    html = page_of(run_dir)
    assert "0.5400 to 0.5600" in html and "Previously published" not in html
    assert '<th class="number">Difference</th>' not in html


@pytest.mark.parametrize("state", ["RUNNING", *GOOD_STATES])
def test_a_rejected_model_is_a_good_end(tmp_path, state):
    run_dir = str(tmp_path)
    leave(run_dir, accepted=False, until="gate")
    summary = summarise(run_dir, RUN_ID, state)
    assert summary["outcome"] == "rejected"
    assert summary["ended_by"] is summary["error"] is summary["version"] is None
    html = page_of(run_dir)
    assert "<title>Rejected: " in html
    assert states(html) == ["done"] * 4 + ["not run"] * 2


def leave_up_to(run_dir: str, step: str):
    """Write what the steps before `step` leave."""
    number = STEPS.index(step)
    leave(run_dir, until=STEPS[number - 1] if number else None)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_failed_is_named_with_its_reason(run_dir, step):
    leave_up_to(run_dir, step)
    with pytest.raises(UserError), record(run_dir, step):
        raise UserError("a.tfrecord, record 7: no id.")
    summary = summarise(run_dir, RUN_ID, "FAILED", "Task failed.")
    assert summary["outcome"] == "failed"
    assert summary["ended_by"] == step
    assert summary["error"] == "a.tfrecord, record 7: no id."
    html = page_of(run_dir)
    assert f">Failed in {step}<" in html and "a.tfrecord, record 7" in html
    number = STEPS.index(step)
    assert states(html) == ["done"] * number + ["failed"] + ["not run"] * (5 - number)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("state, outcome", [("RUNNING", "failed"), ("CANCELLED", "cancelled")])
def test_a_step_that_was_killed_is_named(tmp_path, step, state, outcome):
    run_dir = str(tmp_path)
    leave_up_to(run_dir, step)
    with record(run_dir, step):
        summary = summarise(run_dir, RUN_ID, state)
    assert (summary["outcome"], summary["ended_by"]) == (outcome, step)
    why = "the run was cancelled" if outcome == "cancelled" else "it was killed, or the run was"
    assert f"did not finish: {why}" in summary["error"] and "log" in summary["error"]
    assert states(page_of(run_dir))[: STEPS.index(step) + 1][-1] == "failed"


@pytest.mark.parametrize(
    "state, outcome, error",
    [
        ("FAILED", "failed", "{} did not start."),
        ("CANCELED", "cancelled", "{} did not start: the run was cancelled."),
    ],
)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_never_started_is_named(tmp_path, step, state, outcome, error):
    run_dir = str(tmp_path)
    leave_up_to(run_dir, step)
    summary = summarise(run_dir, RUN_ID, state)
    assert (summary["outcome"], summary["ended_by"]) == (outcome, step)
    assert summary["error"] == error.format(step)
    number = STEPS.index(step)
    assert states(page_of(run_dir)) == ["done"] * number + ["not run"] * (6 - number)


def an_earlier_training(run_dir: str, monkeypatch):
    """Record a failed training of the same model, a second before any other step."""
    with monkeypatch.context() as patch:
        patch.setattr("components.summary._now", lambda: "2026-01-01T00:00:00+00:00")
        with pytest.raises(UserError), record(run_dir, "train"):
            raise UserError("No GPU.")


def test_a_training_of_an_earlier_run_is_not_taken_for_this_ones(tmp_path, monkeypatch):
    run_dir = str(tmp_path / "run")
    an_earlier_training(run_dir, monkeypatch)
    leave(run_dir, until="validate_data")
    summary = summarise(run_dir, RUN_ID, "FAILED")
    assert (summary["ended_by"], summary["error"]) == ("train", "train did not start.")


def test_a_training_that_was_answered_from_the_cache(tmp_path, monkeypatch):
    run_dir = str(tmp_path / "run")
    an_earlier_training(run_dir, monkeypatch)
    leave(run_dir)
    with monkeypatch.context() as patch:
        patch.setattr("components.summary._now", lambda: "2026-01-01T00:00:00+00:00")
        with record(run_dir, "train"):
            pass
    summary = summarise(run_dir, RUN_ID, "COMPLETE")
    assert summary["outcome"] == "published"
    assert states(page_of(run_dir)) == ["done", "cached", *["done"] * 4]


def test_the_backends_error_is_shown_where_no_step_recorded_one(run_dir):
    summary = summarise(run_dir, RUN_ID, "FAILED", "No node has a GPU.")
    assert summary["error"] == "No node has a GPU."
    assert summary["metrics"] is None and summary["reports"] == {}
    assert "No node has a GPU." in page_of(run_dir)


def test_evaluate_never_started_after_a_training_that_was_answered_from_the_cache(
    tmp_path, monkeypatch
):
    run_dir = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("components.summary._now", lambda: "2026-01-01T00:00:00+00:00")
        with record(run_dir, "train"):
            pass
    leave(run_dir, until="validate_data")
    summary = summarise(run_dir, RUN_ID, "FAILED")
    assert (summary["ended_by"], summary["error"]) == ("evaluate", "evaluate did not start.")
    assert states(page_of(run_dir)) == ["done", "cached", *["not run"] * 4]


@pytest.mark.parametrize(
    "number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")], ids=["TERM", "INT"]
)
@pytest.mark.parametrize("step", ["validate_data", "train", "publish"])
def test_a_step_that_received_a_signal_was_cancelled(tmp_path, step, number, name):
    run_dir = str(tmp_path / "run")
    leave_up_to(run_dir, step)
    with pytest.raises((SystemExit, KeyboardInterrupt)), record(run_dir, step):
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    summary = summarise(run_dir, RUN_ID, "RUNNING")  # of Kubeflow, as for a failed run
    assert (summary["outcome"], summary["ended_by"]) == ("cancelled", step)
    assert summary["error"] == (
        f"{step} received {name}: the run was cancelled, or its machine was taken away."
    )
    assert "interrupted" in page_of(run_dir)


def test_a_retry_that_succeeds_replaces_the_interruption(tmp_path):
    run_dir = str(tmp_path / "run")
    with pytest.raises(SystemExit), record(run_dir, "validate_data"):
        raise SystemExit(143)
    leave(run_dir)
    assert summarise(run_dir, RUN_ID, "COMPLETE")["outcome"] == "published"


def test_a_step_that_ends_the_process_otherwise_failed(tmp_path):
    run_dir = str(tmp_path / "run")
    with pytest.raises(SystemExit), record(run_dir, "validate_data"):
        raise SystemExit(3)
    summary = summarise(run_dir, RUN_ID, "FAILED")
    assert summary["outcome"] == "failed"
    assert summary["error"] == "validate_data ended with exit code 3."


def test_durations(tmp_path, monkeypatch):
    run_dir = str(tmp_path / "run")
    times = iter(f"2026-01-01T{time}+00:00" for time in ("00:00:00", "00:00:05", "00:01", "03:05"))
    monkeypatch.setattr("components.summary._now", lambda: next(times))
    for step in ("validate_data", "evaluate"):
        with recorded(run_dir, RUN_ID, step):
            pass
    summary = summarise(run_dir, RUN_ID)
    assert summary["steps"]["validate_data"]["seconds"] == 5
    assert summary["steps"]["evaluate"]["seconds"] == 3 * 3600 + 4 * 60
    assert summary["seconds"] == 3 * 3600 + 5 * 60
    assert "3 h 4 min" in page_of(run_dir) and "5 s" in page_of(run_dir)


def test_accepted_but_not_published_is_no_success(tmp_path):
    leave(str(tmp_path), until="gate")
    summary = summarise(str(tmp_path), RUN_ID, "SUCCEEDED")
    assert (summary["outcome"], summary["ended_by"]) == ("failed", "export_model")


def test_a_successful_retry_replaces_the_failure(tmp_path):
    run_dir, record = str(tmp_path), tmp_path / "steps" / "gate.json"
    with pytest.raises(KeyError), recorded(run_dir, RUN_ID, "gate"):
        raise KeyError("x")
    assert json.loads(record.read_text())["error"] == "KeyError: 'x'"
    with recorded(run_dir, RUN_ID, "gate"):
        pass
    retried = json.loads(record.read_text())
    assert (retried["state"], retried["error"]) == ("done", None)
    assert datetime.fromisoformat(retried["started"]) <= datetime.fromisoformat(retried["ended"])


def test_an_error_of_recording_does_not_hide_the_steps_error(tmp_path, monkeypatch):
    def full(path, text):
        raise UserError("Cannot write: no space left on device.")

    with pytest.raises(KeyError), recorded(str(tmp_path), RUN_ID, "gate"):
        monkeypatch.setattr(storage, "write_text", full)
        raise KeyError("x")
