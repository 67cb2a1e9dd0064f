"""Follows a run on Kubeflow to its end."""

import time
from collections.abc import Iterator

import urllib3
from kfp_server_api import ApiException, V2beta1PipelineTaskDetail, V2beta1Run

from pipeline import kubeflow
from pipeline.connection import ConnectionConfig

POLL_SECONDS = 5
OUTAGE_SECONDS = 600  # for which a server may be away while a run goes on

# State of a run that has ended -> exit code.
EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "SKIPPED": 2, "CANCELED": 3}
STILL_RUNNING = 124  # that of `timeout`


def follow(
    client, connection: ConnectionConfig, run_id: str, steps: dict[str, str], seconds: float
) -> V2beta1Run:
    """Waits until the run has ended, and shows each change of a step's state.

    Args:
        steps: Name of a step's task -> the name to show.
        seconds: How long to wait.

    Returns:
        The run as it was last seen: ended, or not yet.
    """
    end = time.monotonic() + seconds
    shown = {}
    while True:
        run = _get(client, connection, run_id)
        for task in _newest(run, steps):
            if shown.get(task.display_name) != task.state:
                shown[task.display_name] = task.state
                print(_line(task, steps[task.display_name]), flush=True)
        if run.state in EXIT_CODES or time.monotonic() >= end:
            return run
        time.sleep(POLL_SECONDS)


def _get(client, connection: ConnectionConfig, run_id: str) -> V2beta1Run:
    """The run, now or when the server is back."""
    end = time.monotonic() + OUTAGE_SECONDS
    renewed = False
    while True:
        try:
            return client.get_run(run_id)
        except ApiException as error:
            if error.status == 401 and connection.iap_client_id and not renewed:
                renewed = True  # an hour is over, after which Google wants another token
                kubeflow.renew(client, connection)
                continue
            if error.status not in kubeflow.TRANSIENT or time.monotonic() > end:
                raise
        except urllib3.exceptions.HTTPError:
            if time.monotonic() > end:
                raise
        time.sleep(POLL_SECONDS)


def _tasks(run: V2beta1Run) -> list[V2beta1PipelineTaskDetail]:
    return (run.run_details and run.run_details.task_details) or []


def _newest(run: V2beta1Run, steps: dict[str, str]) -> Iterator[V2beta1PipelineTaskDetail]:
    """The steps' tasks that have begun, in that order; of several of one name the newest."""
    began = [task for task in _tasks(run) if task.display_name in steps and task.start_time]
    newest = {task.display_name: task for task in sorted(began, key=lambda task: task.start_time)}
    return iter(newest.values())


def _line(task: V2beta1PipelineTaskDetail, name: str) -> str:
    moment = task.end_time or task.start_time
    line = f"{moment:%H:%M:%S}  {name:<14} {(task.state or 'unknown').lower()}"
    if task.end_time and task.state in EXIT_CODES:
        seconds = round((task.end_time - task.start_time).total_seconds())
        line += f" after {seconds // 60} min {seconds % 60} s"
    return line


def failure(run: V2beta1Run, steps: dict[str, str]) -> tuple[str, str, str]:
    """Which step of a failed run failed first: its name, its pod, and why; empty where unknown."""
    failed = [task for task in _newest(run, steps) if task.state == "FAILED"]
    if not failed:
        return "", "", (run.error and run.error.message) or ""
    task = min(failed, key=lambda task: str(task.end_time))
    parts = [part for part in _parts(run, task) if part.state == "FAILED"]
    parts.sort(key=lambda part: str(part.end_time))  # the last try is the last
    pods = [part.pod_name for part in parts if part.pod_name]
    errors = [part.error.message for part in parts if part.error and part.error.message]
    return steps[task.display_name], (pods or [""])[-1], (errors or [""])[-1]


def _parts(run: V2beta1Run, task: V2beta1PipelineTaskDetail) -> list[V2beta1PipelineTaskDetail]:
    """The task and all that it is made of: a step is a graph with an executor, with its tries."""
    tasks = _tasks(run)
    by_id = {name: task for task in tasks for name in (task.task_id, task.pod_name) if name}
    parts = [task]
    for part in parts:  # which grows meanwhile
        ids = [child.task_id or child.pod_name for child in part.child_tasks or []]
        parts += [by_id[id] for id in ids if id in by_id and by_id[id] not in parts]
    return parts
