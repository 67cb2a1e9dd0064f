"""The summary of a run: the records of its steps, its outcome and the reason."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime

from components import report
from components.metric_table import metric_rows
from trainer.common import storage
from trainer.common.errors import UserError

STEPS = ("validate_data", "train", "evaluate", "gate", "export_model", "publish")
FINISHED = ("done", "cached")
REPORTS = {"Validation": "validation/report.html", "Evaluation": "evaluation/report.html"}


@contextlib.contextmanager
def recorded(folder: str, run_id: str, step: str) -> Iterator[None]:
    """Record that a step started, and how it ended.

    Writes steps/STEP.json: "run_id", "state" ("running", "done" or "failed"), "started" and
    "ended" (ISO 8601, UTC) and "error". A step that is killed stays "running".

    Args:
        folder: The run's folder; of train, whose result runs share, the trainer's folder.
        run_id: The backend's id of the run. It tells the records of this run from those of an
            earlier one with the same `run_name`. Empty for train.
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
        storage.write_text(_record_path(folder, step), json.dumps(values, indent=1) + "\n")

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


def _record_path(folder: str, step: str) -> str:
    return storage.join(folder, "steps", f"{step}.json")


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
    plan = _result(run_dir, steps, "plan.json")
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
        "train_dir": plan.get("train_dir"),
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
    records = {step: _read(_record_path(run_dir, step)) for step in STEPS}
    records = {step: record for step, record in records.items() if record.get("run_id") == run_id}
    plan = _result(run_dir, records, "plan.json")
    if plan:
        records["train"] = _train_record(plan["train_dir"], records)
    return {step: records[step] for step in STEPS if records.get(step)}


def _train_record(train_dir: str, records: dict[str, dict]) -> dict:
    """The record of train in this run; "cached" if the result is of an earlier run."""
    record = _read(_record_path(train_dir, "train"))
    in_this_run = record and record["started"] >= records["validate_data"]["ended"]
    if in_this_run or "evaluate" not in records:
        return record if in_this_run else {}
    return {"state": "cached", "started": None, "ended": None, "error": None}


def _result(run_dir: str, steps: dict[str, dict], name: str) -> dict:
    """The content of the file `name` if a step of this run wrote it; otherwise empty.

    The first step deletes the files of an earlier run with the same name.
    """
    return _read(storage.join(run_dir, name)) if steps else {}


def _read(path: str) -> dict:
    return storage.read_json(path) if storage.exists(path) else {}


def _outcome(state: str, verdict: dict, published: dict) -> str:
    if published:
        return "published"
    if verdict.get("accepted") is False:
        return "rejected"
    return "cancelled" if state.startswith("CANCEL") else "failed"


def _ended_by(steps: dict[str, dict]) -> str:
    """The first step that did not finish."""
    return next(step for step in STEPS if steps.get(step, {}).get("state") not in FINISHED)


def _error(steps: dict[str, dict], ended_by: str, backend_error: str) -> str | None:
    record = steps.get(ended_by)
    if record and record["error"]:
        return record["error"]
    if backend_error:
        return backend_error
    if record:
        return (
            f"{ended_by} started at {record['started']} and did not finish: it was killed, or the "
            "run was cancelled. See the step's log."
        )
    return f"{ended_by} did not start."


def page(run_dir: str, summary: dict) -> str:
    """Return the summary as HTML."""
    return report.render(
        "summary.html",
        kind="Run",
        run_dir=run_dir,
        summary=summary,
        steps=_step_states(summary),
        comparison=metric_rows(summary["metrics"] or {}, summary["champion"] or {}),
        report_files=REPORTS,
    )


def _step_states(summary: dict) -> list[tuple[str, str]]:
    """(step, "done", "cached", "failed" or "not run") of each step."""
    states = {step: record["state"] for step, record in summary["steps"].items()}
    shown = {"done": "done", "cached": "cached", None: "not run"}
    return [(step, shown.get(states.get(step), "failed")) for step in STEPS]
