"""The summary of a run: the records of its steps, its outcome and the reason."""

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from components import learning_curve, report
from components.metric_table import metric_rows
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import manifest
from trainer.evaluation.metrics import METRICS

STEPS = ("validate_data", "train", "evaluate", "gate", "export_model", "publish")
FINISHED = ("done", "cached")
REPORTS = {"Validation": "validation/report.html", "Evaluation": "evaluation/report.html"}


@contextlib.contextmanager
def recorded(folder: str, run_id: str, step: str) -> Iterator[None]:
    """Record that a step started, and how it ended.

    Writes steps/STEP.json: "run_id", "state" ("running", "done", "failed" or "interrupted"),
    "started" and "ended" (ISO 8601, UTC) and "error". A step is interrupted by SIGTERM or Ctrl-C.
    One that is killed stays "running".

    Args:
        folder: The run's folder; of train, whose result runs share, the trainer's folder.
        run_id: The backend's id of the run. Empty for train.
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
        with _sigterm_exits():
            yield
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(UserError):  # the step's own error matters more
            record("failed", _now(), text)
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        with contextlib.suppress(UserError):
            record(*_ending(error, step))
        raise
    record("done", _now())


def _ending(error: KeyboardInterrupt | SystemExit, step: str) -> tuple[str, str, str]:
    """Return state, time and error of a step that ends the process."""
    code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.code
    names = {128 + number: number.name for number in (signal.SIGINT, signal.SIGTERM)}
    if code not in names:
        return "failed", _now(), f"{step} ended with exit code {code}."
    reason = "the run was cancelled, or its machine was taken away"
    return "interrupted", _now(), f"{step} received {names[code]}: {reason}."


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Leave the body by SystemExit at SIGTERM, unless the process handles the signal itself."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    handled = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _record_path(folder: str, step: str) -> str:
    return storage.join(folder, "steps", f"{step}.json")


def summarise(run_dir: str, run_id: str, state: str = "", error: str = "") -> dict:
    """Write summary.json and summary.html to the run's folder.

    The outcome is decided by what the steps recorded. The backend's state is only used to tell a
    cancelled run from a failed one, because Kubeflow hands COMPLETE to the exit handler of a
    published run, but RUNNING to that of a rejected one.

    Args:
        run_dir: The run's folder. It may be empty or missing.
        run_id: The backend's id of the run, as in `recorded`.
        state: The state that the backend reports, e.g. SUCCEEDED, COMPLETE or CANCELED.
        error: The backend's error message, used for a step that recorded none.

    Returns:
        The content of summary.json. These keys are always present, with None for what is unknown:

        - "run_id", "outcome" ("published", "rejected", "failed" or "cancelled"), "state" (the
          backend's), "ended_by" (the step that failed or did not finish) and its "error".
        - "steps": step -> record, as of `recorded`, with "seconds". A training that an earlier run
          finished has the state "cached".
        - "started", "ended" and "seconds" of the run.
        - "parameters" of validate_data, "commit" and "images" (name -> image).
        - "data": split -> {"manifest", "files", "records"}.
        - "verdict": content of verdict.json; "accepted" and "reason" of it.
        - "metrics", "champion" (metric name -> value), "comparison" (metric name -> estimates) and
          "champion_version".
        - "train_dir"; "version" and "model" (folder) as published.
        - "reports": title -> path of each that exists.

    Raises:
        UserError: A file cannot be read or written.
    """
    steps = _records(run_dir, run_id)
    run = _read(storage.join(run_dir, "run.json"))
    plan = _read(storage.join(run_dir, "plan.json"))
    metrics = _read(storage.join(run_dir, "evaluation/metrics.json"))
    verdict = _read(storage.join(run_dir, "verdict.json"))
    published = _read(storage.join(run_dir, "publish.json"))
    outcome = _outcome(state, steps, verdict, published)
    unfinished = outcome in ("failed", "cancelled")
    ended_by = _ended_by(steps) if unfinished else None
    summary = {
        "run_id": run_id,
        "outcome": outcome,
        "state": state,
        "steps": {step: _with_duration(record) for step, record in steps.items()},
        **_period(steps),
        "ended_by": ended_by,
        "error": _error(outcome, steps, ended_by, error) if unfinished else None,
        "parameters": run.get("parameters"),
        "commit": run.get("commit"),
        "images": run.get("images"),
        "data": _data(plan),
        "verdict": verdict or None,
        "accepted": verdict.get("accepted"),
        "reason": verdict.get("reason"),
        "metrics": metrics.get("challenger"),
        "champion": metrics.get("champion"),
        "comparison": metrics.get("comparison"),
        "champion_version": metrics.get("champion_version"),
        "train_dir": plan.get("train_dir"),
        "version": published.get("version"),
        "model": published.get("path"),
        "reports": {
            title: storage.join(run_dir, name)
            for title, name in REPORTS.items()
            if storage.exists(storage.join(run_dir, name))
        },
    }
    storage.write_text(storage.join(run_dir, "summary.json"), json.dumps(summary, indent=1) + "\n")
    storage.write_text(storage.join(run_dir, "summary.html"), page(run_dir, summary))
    return summary


def _records(run_dir: str, run_id: str) -> dict[str, dict]:
    """The records of this run's steps, in the order of `STEPS`."""
    records = {step: _read(_record_path(run_dir, step)) for step in STEPS}
    records = {step: record for step, record in records.items() if record.get("run_id") == run_id}
    plan = _read(storage.join(run_dir, "plan.json"))
    if plan and "validate_data" in records:
        records["train"] = _train_record(plan["train_dir"], records)
    return {step: records[step] for step in STEPS if records.get(step)}


def _train_record(train_dir: str, records: dict[str, dict]) -> dict:
    """The record of train in this run; "cached" if an earlier run finished the training."""
    record = _read(_record_path(train_dir, "train"))
    if record and record["started"] >= records["validate_data"]["ended"]:
        return record
    if "evaluate" in records or record.get("state") == "done":
        return {"state": "cached", "started": None, "ended": None, "error": None}
    return {}


def _with_duration(record: dict) -> dict:
    return record | {"seconds": _seconds(record["started"], record["ended"])}


def _period(steps: dict[str, dict]) -> dict:
    """When the run's first step started, and its last one ended."""
    starts = [record["started"] for record in steps.values() if record["started"]]
    ends = [record["ended"] for record in steps.values() if record["ended"]]
    started, ended = min(starts, default=None), max(ends, default=None)
    return {"started": started, "ended": ended, "seconds": _seconds(started, ended)}


def _seconds(started: str | None, ended: str | None) -> int | None:
    if not started or not ended:
        return None
    difference = datetime.fromisoformat(ended) - datetime.fromisoformat(started)
    return round(difference.total_seconds())


def _data(plan: dict) -> dict | None:
    """The manifest of each split, with its size."""
    paths = {split: plan.get(f"{split}_data", "") for split in ("train", "eval")}
    return {
        split: {"manifest": path} | _size(manifest.read(path))
        for split, path in paths.items()
        if manifest.is_manifest(path) and storage.exists(path)
    } or None


def _size(files: manifest.Manifest) -> dict:
    return {"files": len(files.files), "records": files.num_records}


def _read(path: str) -> dict:
    return storage.read_json(path) if storage.exists(path) else {}


def _outcome(state: str, steps: dict[str, dict], verdict: dict, published: dict) -> str:
    if published:
        return "published"
    if verdict.get("accepted") is False:
        return "rejected"
    interrupted = any(record["state"] == "interrupted" for record in steps.values())
    return "cancelled" if interrupted or state.startswith("CANCEL") else "failed"


def _ended_by(steps: dict[str, dict]) -> str:
    """The first step that did not finish."""
    return next(step for step in STEPS if steps.get(step, {}).get("state") not in FINISHED)


def _error(outcome: str, steps: dict[str, dict], ended_by: str, backend_error: str) -> str:
    record = steps.get(ended_by)
    if record and record["error"]:
        return record["error"]
    if backend_error:
        return backend_error
    if record:
        killed = "" if outcome == "cancelled" else "it was killed, or "
        started = f"{ended_by} started at {record['started']} and did not finish"
        return f"{started}: {killed}the run was cancelled. See the step's log."
    reason = ": the run was cancelled" if outcome == "cancelled" else ""
    return f"{ended_by} did not start{reason}."


def page(run_dir: str, summary: dict) -> str:
    """Return the summary as HTML."""
    titles = {name: metric.title for name, metric in METRICS.items()}
    curves = learning_curve.read(summary["train_dir"]) if summary["train_dir"] else {}
    return report.render(
        "summary.html",
        kind="Run",
        run_dir=run_dir,
        summary=summary,
        steps=_step_rows(summary),
        comparison=metric_rows(summary["metrics"] or {}, summary["champion"] or {}),
        report_files=REPORTS,
        titles=titles,
        curves=curves,
        metric_curves=[
            (title, curves[f"train/{name}"])
            for name, title in titles.items()
            if f"train/{name}" in curves
        ],
    )


# State of a step -> (its class in the page, what the page shows).
_SHOWN = {
    "done": ("done", "done"),
    "cached": ("cached", "reused from an earlier run"),
    "failed": ("failed", "failed"),
    "interrupted": ("failed", "interrupted"),
    "running": ("failed", "did not finish"),
    None: ("not run", "not run"),
}


def _step_rows(summary: dict) -> list[dict]:
    """Return "name", "tone", "state", "started" and "seconds" of each step."""
    rows = []
    for step in STEPS:
        record = summary["steps"].get(step, {})
        tone, state = _SHOWN[record.get("state")]
        times = {"started": record.get("started"), "seconds": record.get("seconds")}
        rows.append({"name": step, "tone": tone, "state": state} | times)
    return rows
