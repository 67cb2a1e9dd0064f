"""Submit the compiled pipeline to Vertex AI, and follow the run."""

import sys
import time
from datetime import UTC, datetime

from pipeline.naming import run_name
from pipeline.parameters import with_defaults
from pipeline.vertex import client as vertex

POLL_SECONDS = 10
ATTEMPTS = 4
BACKOFF_SECONDS = 1.0

# State of a run that has ended -> exit code, as on Kubeflow.
EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELLED": 3}
STILL_RUNNING = 124


def submit(config, compiled, values: dict) -> int:
    """Create a run; return the exit code, which with --wait is that of the run's final state."""
    all_values = with_defaults(values, compiled.parameters)
    name = config.run_name or run_name(all_values, datetime.now(UTC))
    if config.dry_run:
        return vertex.show(config, compiled, values, {"run": name})
    with vertex.explained(), vertex.client(config) as aiplatform:
        job = vertex.job(aiplatform, config, compiled, values, name)
        _create_once(aiplatform, job, config)
        print(f"Run:      {name}\n          {job._dashboard_uri()}", flush=True)
        if not config.wait:
            return 0
        try:
            state = _follow(job, compiled.steps, config.timeout * 3600)
        except KeyboardInterrupt:
            print("\nThe run continues, but is no longer followed.", file=sys.stderr)
            return 130
        return _report(job, state, compiled.steps)


def _create_once(aiplatform, job, config):
    """Create the run exactly once: if an answer is lost, the next attempt finds the run's ID."""
    from google.api_core import exceptions

    lost = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.ServerError)
    for attempt in range(ATTEMPTS):
        try:
            return job.submit(
                service_account=config.service_account or None,
                network=config.network or None,
                create_request_timeout=vertex.ANSWER_SECONDS,
            )
        except exceptions.Conflict:  # The ID exists.
            if not attempt:
                raise
            name = f"{job._parent}/pipelineJobs/{job.job_id}"
            job._gca_resource = aiplatform.PipelineJob.get(name)._gca_resource
            return None
        except lost:
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(BACKOFF_SECONDS * 2**attempt)


def _follow(job, steps: dict[str, str], seconds: float) -> str:
    """Print each change of a step's state; return the run's state at its end or the timeout."""
    end = time.monotonic() + seconds
    shown = {}
    while True:
        state = job.state.name.removeprefix("PIPELINE_STATE_")
        for task in job._gca_resource.job_detail.task_details:
            if task.task_name in steps and shown.get(task.task_name) != task.state:
                shown[task.task_name] = task.state
                moment = task.end_time or task.start_time or task.create_time
                print(
                    f"{moment:%H:%M:%S}  {steps[task.task_name]:<14} {task.state.name.lower()}",
                    flush=True,
                )
        if state in EXIT_CODES or time.monotonic() >= end:
            return state
        time.sleep(POLL_SECONDS)


def _report(job, state: str, steps: dict[str, str]) -> int:
    """Print how the run ended; return the exit code."""
    link = job._dashboard_uri()
    if state not in EXIT_CODES:
        print(
            f"error: The run continues, but is no longer followed (--timeout): {link}",
            file=sys.stderr,
        )
        return STILL_RUNNING
    print("The run was canceled." if state == "CANCELLED" else f"The run {state.lower()}.")
    if state == "FAILED":
        tasks = job._gca_resource.job_detail.task_details
        failed = [task for task in tasks if task.state.name == "FAILED" and task.task_name in steps]
        why = failed[0].error.message if failed else job._gca_resource.error.message
        step = steps[failed[0].task_name] if failed else "The run"
        print(f"error: {step} failed{': ' + why if why else '.'}\nLog: {link}", file=sys.stderr)
    return EXIT_CODES[state]
