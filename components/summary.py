"""Sums a run up, whatever became of it: what the steps left in its folder, on one page."""

import contextlib
import itertools
import json
from collections.abc import Iterator

from components import report
from components.comparison import compare
from trainer import storage
from trainer.errors import UserError

STEPS = ("validate_data", "train", "evaluate", "gate", "export_model", "publish")
LAST_STEP = "last_step.json"
REPORTS = {"Validation": "validation/report.html", "Evaluation": "evaluation/report.html"}


@contextlib.contextmanager
def recorded(run_dir: str, step: str) -> Iterator[None]:
    """Leaves in the run's folder that `step` began, and how it ended, for the summary to tell.

    Args:
        run_dir: The run's folder.
        step: One of `STEPS`. One that knows of no run (train, whose result runs share) is told
            from what was recorded before it.
    """

    def record(state: str, error: str = ""):
        text = json.dumps({"step": step, "state": state, "error": error}, indent=1) + "\n"
        storage.write_text(storage.join(run_dir, LAST_STEP), text)

    record("running")  # what stays if the process is killed
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(UserError):  # where this cannot be written, the error still counts
            record("failed", text)
        raise
    record("done")


def summarise(run_dir: str, state: str, error: str = "") -> dict:
    """Writes summary.json and summary.html to the run's folder.

    Args:
        run_dir: The run's folder, with what its steps left there; it may be empty or missing.
        state: How the run ended, as Kubeflow calls it: SUCCEEDED, FAILED ...
        error: What Kubeflow says of a failure; the step's own words, if it left any, go first.

    Returns:
        What summary.json holds. Always there, null where unknown: "outcome" ("published",
        "rejected", "failed" or "cancelled"), "state", "ended_by" (the step that did not end well)
        and its "error", "accepted" and "reason" of the verdict, "metrics", "champion" (metrics),
        "champion_version", "train_dir", "version" and "model" (folder) as published, "reports"
        (title -> path, of those that exist).

    Raises:
        UserError: a file cannot be read or written.
    """
    metrics = _read(run_dir, "evaluation/metrics.json")
    verdict = _read(run_dir, "verdict.json")
    published = _read(run_dir, "publish.json")
    last = _read(run_dir, LAST_STEP)
    outcome = _outcome(state, verdict, published)
    failed = outcome in ("failed", "cancelled")
    summary = {
        "outcome": outcome,
        "state": state,
        "ended_by": _ended_by(last, verdict) if failed else None,
        "error": (last.get("error") or error or None) if failed else None,
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
            if storage.exists(storage.join(run_dir, name))
        },
    }
    storage.write_text(storage.join(run_dir, "summary.json"), json.dumps(summary, indent=1) + "\n")
    storage.write_text(storage.join(run_dir, "summary.html"), page(run_dir, summary))
    return summary


def _read(run_dir: str, name: str) -> dict:
    path = storage.join(run_dir, name)
    return storage.read_json(path) if storage.exists(path) else {}


def _outcome(state: str, verdict: dict, published: dict) -> str:
    if state.startswith("CANCEL"):
        return "cancelled"
    if state == "SUCCEEDED" and published:
        return "published"
    if state == "SUCCEEDED" and verdict.get("accepted") is False:
        return "rejected"
    return "failed"


def _ended_by(last: dict, verdict: dict) -> str | None:
    """The step that a run was in which did not end well; None if that is not known."""
    if not last:
        return None
    step = STEPS.index(last["step"])
    if last["state"] != "done":
        return STEPS[step]
    if STEPS[step] == "publish" or verdict.get("accepted") is False:
        return None  # nothing was left to do
    return STEPS[step + 1]


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
    """Each step with "done", "failed" or "not run"; nothing where that is not known."""
    if summary["outcome"] == "published":
        states = ["done"] * len(STEPS)
    elif summary["outcome"] == "rejected":
        states = ["done"] * (STEPS.index("gate") + 1)
    elif summary["ended_by"]:
        states = ["done"] * STEPS.index(summary["ended_by"]) + ["failed"]
    else:
        return []
    return list(itertools.zip_longest(STEPS, states, fillvalue="not run"))
