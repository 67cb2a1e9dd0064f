import json
import re

import pytest

from components.summary import STEPS, recorded, summarise
from trainer import storage
from trainer.errors import UserError

SCORES = {"gap": 0.55, "hit_at_1": 0.7, "perr": 0.6, "map": 0.1, "loss": 12.0}
OLD_SCORES = {"gap": 0.5, "hit_at_1": 0.7, "perr": 0.6, "map": 0.2, "loss": 13.0}


@pytest.fixture(params=["local", "gs"])
def run_dir(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "runs" / "nightly")
    return request.getfixturevalue("gcs_bucket") + "/runs/nightly"


def leave(run_dir: str, accepted: bool = True, until: str = "publish") -> None:
    """What the steps leave in a run's folder, all of them up to `until`."""
    files = {
        "validate_data": {"validation/report.html": "<p>"},
        "train": {},
        "evaluate": {
            "evaluation/report.html": "<p>",
            "evaluation/metrics.json": {
                "challenger": SCORES,
                "champion": OLD_SCORES,
                "champion_version": "20260101000000",
                "train_dir": "/out/train/key",
                "step": 10,
            },
        },
        "gate": {"verdict.json": {"accepted": accepted, "reason": "GAP 0.55 beats <0.5."}},
        "export_model": {},
        "publish": {"publish.json": {"version": "2026", "path": "/out/published/2026"}},
    }
    for step in STEPS[: STEPS.index(until) + 1]:
        for name, content in files[step].items():
            text = content if isinstance(content, str) else json.dumps(content)
            storage.write_text(f"{run_dir}/{name}", text)
        if step not in ("train", "export_model"):
            with recorded(run_dir, step):
                pass


def page_of(run_dir: str) -> str:
    return storage.read_text(f"{run_dir}/summary.html")


def states(html: str) -> list[str]:
    return re.findall(r'<li class="([^"]*)"', html)


def test_a_published_model(run_dir):
    leave(run_dir)
    summary = summarise(run_dir, "SUCCEEDED")
    assert summary == json.loads(storage.read_text(f"{run_dir}/summary.json"))
    assert summary == {
        "outcome": "published",
        "state": "SUCCEEDED",
        "ended_by": None,
        "error": None,
        "accepted": True,
        "reason": "GAP 0.55 beats <0.5.",
        "metrics": SCORES,
        "champion": OLD_SCORES,
        "champion_version": "20260101000000",
        "train_dir": "/out/train/key",
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
    assert re.findall(r'href="([^"]*)"', html) == [
        "validation/report.html",
        "evaluation/report.html",
    ]


def test_a_rejected_model_is_a_good_end(run_dir):
    leave(run_dir, accepted=False, until="gate")
    summary = summarise(run_dir, "SUCCEEDED")
    assert summary["outcome"] == "rejected"
    assert summary["ended_by"] is summary["error"] is summary["version"] is None
    html = page_of(run_dir)
    assert "<title>Rejected: nightly</title>" in html
    assert states(html) == ["done"] * 4 + ["not run"] * 2


@pytest.mark.parametrize("step", ["validate_data", "evaluate", "gate", "publish"])
def test_a_step_that_failed_is_named_with_its_reason(run_dir, step):
    number = STEPS.index(step)
    if number:
        leave(run_dir, until=STEPS[number - 1])
    with pytest.raises(UserError), recorded(run_dir, step):
        raise UserError("a.tfrecord, record 7: no id.")
    summary = summarise(run_dir, "FAILED", "Task failed.")
    assert summary["outcome"] == "failed"
    assert summary["ended_by"] == step
    assert summary["error"] == "a.tfrecord, record 7: no id."
    html = page_of(run_dir)
    assert f">Failed in {step}<" in html and "a.tfrecord, record 7" in html
    assert states(html) == ["done"] * number + ["failed"] + ["not run"] * (5 - number)


@pytest.mark.parametrize(
    "until, ended_by",
    [("validate_data", "train"), ("evaluate", "gate"), ("gate", "export_model")],
)
def test_a_step_that_left_nothing_is_named(tmp_path, until, ended_by):
    leave(str(tmp_path), until=until)
    summary = summarise(str(tmp_path), "FAILED", "Task train failed.")
    assert (summary["ended_by"], summary["error"]) == (ended_by, "Task train failed.")


def test_a_step_that_was_killed_is_named(tmp_path):
    leave(str(tmp_path), until="train")
    with recorded(str(tmp_path), "evaluate"):
        killed = summarise(str(tmp_path), "FAILED")
    assert (killed["ended_by"], killed["error"]) == ("evaluate", None)
    assert "The log of the step says why." in page_of(str(tmp_path))


def test_a_run_that_never_began(run_dir):
    summary = summarise(run_dir, "FAILED", "No node has a GPU.")
    assert summary["outcome"] == "failed"
    assert summary["metrics"] is summary["ended_by"] is None
    assert summary["reports"] == {}
    assert "No node has a GPU." in page_of(run_dir)


def test_a_run_that_was_cancelled(tmp_path):
    leave(str(tmp_path), until="validate_data")
    summary = summarise(str(tmp_path), "CANCELLED")
    assert (summary["outcome"], summary["ended_by"]) == ("cancelled", "train")
    assert "Cancelled in train" in page_of(str(tmp_path))


def test_accepted_but_not_published_is_no_success(tmp_path):
    leave(str(tmp_path), until="gate")
    summary = summarise(str(tmp_path), "SUCCEEDED")
    assert (summary["outcome"], summary["ended_by"]) == ("failed", "export_model")


def test_a_retry_forgets_the_failure(tmp_path):
    with pytest.raises(KeyError), recorded(str(tmp_path), "gate"):
        raise KeyError("x")
    assert json.loads((tmp_path / "last_step.json").read_text())["error"] == "KeyError: 'x'"
    with recorded(str(tmp_path), "gate"):
        pass
    assert json.loads((tmp_path / "last_step.json").read_text()) == {
        "step": "gate",
        "state": "done",
        "error": "",
    }


def test_the_error_of_the_step_outlives_one_of_recording_it(tmp_path, monkeypatch):
    def full(path, text):
        raise UserError("Cannot write: no space left on device.")

    with pytest.raises(KeyError), recorded(str(tmp_path), "gate"):
        monkeypatch.setattr(storage, "write_text", full)
        raise KeyError("x")
