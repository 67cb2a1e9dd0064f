"""The run's summary: what each step recorded, how the run ended, and why."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime

from components import report
from components.comparison import compare
from trainer.common import storage
from trainer.common.errors import UserError

STEPS = ("validate_data", "train", "evaluate", "gate", "export_model", "publish")
UNRECORDED = ("train",)  # runs share its result, so it knows of no run
REPORTS = {"Validation": "validation/report.html", "Evaluation": "evaluation/report.html"}


@contextlib.contextmanager
def recorded(run_dir: str, run_id: str, step: str) -> Iterator[None]:
    """Record in the run's folder that a step started, and how it ended.

    Writes steps/STEP.json: "run_id", "state" ("running", "done" or "failed"), "started" and
    "ended" (ISO 8601, UTC) and "error". A step that is killed stays "running".

    Args:
        run_dir: The run's folder.
        run_id: The backend's id of the run. It tells the records of this run from those of an
            earlier one with the same `run_name`.
        step: One of `STEPS`.
    """
    started = _now()

    def record(state: str, ended: str | None = None, error: str | None = None):
        values = {
            "run_id": run_id,
            "state": state,
            "started": started,
            "ended": ended,
            "error": error,
        }
        storage.write_text(_record_path(run_dir, step), json.dumps(values, indent=1) + "\n")

    record("running")
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(UserError):  # the step's own error matters more
            record("failed", _now(), text)
        raise
    record("done", _now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _record_path(run_dir: str, step: str) -> str:
    return storage.join(run_dir, "steps", f"{step}.json")


def summarise(run_dir: str, run_id: str, state: str = "", error: str = "") -> dict:
    """Write summary.json and summary.html to the run's folder.

    The outcome is decided by what the steps recorded. The state that the backend hands to an exit
    handler is only used to tell a cancelled run from a failed one, because Kubeflow reports
    COMPLETE for a published run, but RUNNING for a rejected and for a terminated one.

    Args:
        run_dir: The run's folder. It may be empty or missing.
        run_id: The backend's id of the run, as in `recorded`.
        state: The state that the backend reports, e.g. SUCCEEDED, COMPLETE or CANCELLED.
        error: The backend's error message, used for a step that recorded none.

    Returns:
        The content of summary.json. These keys are always present, with None for what is unknown:
        "run_id", "outcome" ("published", "rejected", "failed" or "cancelled"), "state" (the
        backend's), "steps" (step -> record), "ended_by" (the step that failed or did not finish)
        and its "error", "accepted" and "reason" of the verdict, "metrics", "champion" (metrics),
        "champion_version", "train_dir", "version" and "model" (folder) as published, and "reports"
        (title -> path of each that exists).

    Raises:
        UserError: A file cannot be read or written.
    """
    steps = _records(run_dir, run_id)
    metrics = _result(run_dir, steps, "evaluation/metrics.json")
    verdict = _result(run_dir, steps, "verdict.json")
    published = _result(run_dir, steps, "publish.json")
    outcome = _outcome(state, verdict, published)
    unfinished = outcome in ("failed", "cancelled")
    ended_by = _ended_by(steps) if unfinished else None
    summary = {
        "run_id": run_id,
        "outcome": outcome,
        "state": state,
        "steps": steps,
        "ended_by": ended_by,
        "error": _error(steps, ended_by, error) if unfinished else None,
        "accepted": verdict.get("accepted"),
        "reason": verdict.get("reason"),
        "metrics": metrics.get("challenger"),
        "champion": metrics.get("champion"),
        "champion_version": metrics.get("champion_version"),
        "train_dir": metrics.get("train_dir"),
        "version": published.get("version"),
        "model": published.get("path"),
        "reports": {
            title: storage.join(run_dir, name)
            for title, name in REPORTS.items()
            if steps and storage.exists(storage.join(run_dir, name))
        },
    }
    storage.write_text(storage.join(run_dir, "summary.json"), json.dumps(summary, indent=1) + "\n")
    storage.write_text(storage.join(run_dir, "summary.html"), page(run_dir, summary))
    return summary


def _records(run_dir: str, run_id: str) -> dict[str, dict]:
    """The records of this run's steps, in the order of `STEPS`."""
    paths = {step: _record_path(run_dir, step) for step in STEPS}
    records = {
        step: storage.read_json(path) for step, path in paths.items() if storage.exists(path)
    }
    return {step: record for step, record in records.items() if record["run_id"] == run_id}


def _result(run_dir: str, steps: dict[str, dict], name: str) -> dict:
    """What a step of this run wrote to the file `name`; empty if none did.

    The first step to start deletes what an earlier run with the same name left.
    """
    path = storage.join(run_dir, name)
    return storage.read_json(path) if steps and storage.exists(path) else {}


def _outcome(state: str, verdict: dict, published: dict) -> str:
    if published:
        return "published"
    if verdict.get("accepted") is False:
        return "rejected"
    return "cancelled" if state.startswith("CANCEL") else "failed"


def _ended_by(steps: dict[str, dict]) -> str:
    """The step in which a run without a result ended."""
    for step, following in itertools.zip_longest(STEPS, STEPS[1:]):
        if step in UNRECORDED and following in steps:
            continue
        if steps.get(step, {}).get("state") != "done":
            return step
    raise AssertionError(f"Every step is done, but the run has no result: {steps}")


def _error(steps: dict[str, dict], ended_by: str, backend_error: str) -> str | None:
    record = steps.get(ended_by)
    if record and record["error"]:
        return record["error"]
    if backend_error:
        return backend_error
    if record:
        return (
            f"{ended_by} started at {record['started']} and did not finish: it was killed, or the "
            "run was cancelled. The step's log tells more."
        )
    if ended_by in UNRECORDED:
        return f"{ended_by} did not finish. The step's log tells why, if it started."
    return f"{ended_by} did not start."


def page(run_dir: str, summary: dict) -> str:
    """The summary as HTML."""
    return report.render(
        "summary.html",
        kind="Run",
        run_dir=run_dir,
        summary=summary,
        steps=_step_states(summary),
        comparison=compare(summary["metrics"] or {}, summary["champion"] or {}),
        report_files=REPORTS,
    )


def _step_states(summary: dict) -> list[tuple[str, str]]:
    """(step, "done", "failed" or "not run") of each step."""
    if summary["outcome"] == "published":
        num_done = len(STEPS)
    elif summary["outcome"] == "rejected":
        num_done = STEPS.index("gate") + 1
    else:
        num_done = STEPS.index(summary["ended_by"])
    states = ["done"] * num_done
    if summary["ended_by"] in (*summary["steps"], *UNRECORDED):
        states.append("failed")
    return list(itertools.zip_longest(STEPS, states, fillvalue="not run"))
