"""Follow a run on Kubeflow until it ends.

Kubeflow Pipelines 2.17 differs from its documentation in how it reports a run, as the recorded
answers in tests/pipeline/recorded show:

- A canceled run ends as FAILED, with CANCELING in its state history.
- A run or task that has not ended has an end time in the year 1.
- Tasks have neither an error nor a pod name. Child tasks are named by Argo's node IDs.
- While a pod waits for a node, only its task "executor(0)" is PENDING; its step is RUNNING.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import urllib3
from kfp_server_api import ApiException, V2beta1PipelineTaskDetail, V2beta1Run

from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow.connection import ConnectionConfig
from pipeline.logs import reason, without_kfp

POLL_SECONDS = 5
OUTAGE_SECONDS = 600  # maximum duration of a server outage
EXPLAIN_MINUTES = 5  # A step that waits for a node as long as this is explained.

# State of a run that has ended -> exit code.
EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "SKIPPED": 2, "CANCELED": 3}
STILL_RUNNING = 124  # exit code, the same as that of `timeout`


@dataclass(frozen=True)
class Step:
    """A step that has started.

    Attributes:
        name: Name of its task, e.g. "train".
        state: Kubeflow's state of the task; or "WAITING" while its pod is pending, or "CACHED".
        started: Start time of the task, or of the wait.
        ended: End time, or None.
    """

    name: str
    state: str
    started: datetime
    ended: datetime | None


def follow(
    client,
    connection: ConnectionConfig,
    run_id: str,
    steps: dict[str, str],
    seconds: float,
    needs: dict[str, str] | None = None,
    explain: Callable[[], str] = lambda: "",
) -> V2beta1Run:
    """Wait until the run has ended, and print each change of a step's state.

    Args:
        steps: Name of a step's task -> display name.
        seconds: Maximum time to wait.
        needs: Name of a step's task -> resources it requests, e.g. "1 x nvidia.com/gpu".
        explain: Called once if a step waits for a node for `EXPLAIN_MINUTES`; returns a line about
            the cluster's nodes to print.

    Returns:
        The run in its last known state, which is not final if the time is up.
    """
    end = time.monotonic() + seconds
    shown = {}
    explained = False
    while True:
        run, now = _get(client, connection, run_id), datetime.now(UTC)
        for step in started_steps(run, steps):
            waited = _minutes(step, now)
            change = step.state, waited.bit_length()  # after 1, 2, 4, 8, ... minutes
            if shown.get(step.name) != change:
                shown[step.name] = change
                print(_line(step, steps[step.name], (needs or {}).get(step.name), waited))
            if waited >= EXPLAIN_MINUTES and not explained:
                explained = True
                print(explain(), flush=True)
        if state(run) in EXIT_CODES or time.monotonic() >= end:
            return run
        time.sleep(POLL_SECONDS)


def state(run: V2beta1Run) -> str:
    """Return the run's state, with CANCELED in place of FAILED for a canceled run."""
    history = [entry.state for entry in run.state_history or []]
    return "CANCELED" if run.state == "FAILED" and "CANCELING" in history else run.state


def _get(client, connection: ConnectionConfig, run_id: str) -> V2beta1Run:
    """Fetch the run, retrying during an outage of the server."""
    end = time.monotonic() + OUTAGE_SECONDS
    renewed = False
    while True:
        try:
            return client.get_run(run_id)
        except ApiException as error:
            if error.status == 401 and connection.iap_client_id and not renewed:
                renewed = True  # Google's tokens expire after an hour.
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


def _ended(task: V2beta1PipelineTaskDetail) -> datetime | None:
    return task.end_time if task.end_time and task.end_time.year > 1970 else None


def started_steps(run: V2beta1Run, steps: dict[str, str]) -> Iterator[Step]:
    """Yield the steps that have started, by start time; of several tries, the newest."""
    # A task that is omitted, because the run has failed, has a time but no state.
    tasks = [task for task in _tasks(run) if task.start_time and task.state]
    started = [task for task in tasks if task.display_name in steps]
    newest = {task.display_name: task for task in sorted(started, key=lambda task: task.start_time)}
    for name, task in newest.items():
        executors = [other for other in tasks if _is_executor_of(other, task)]
        pods = [other for other in executors if other.display_name != "executor"]  # executor(0)
        pod = max(pods, key=lambda pod: pod.start_time, default=None)
        if task.state == "RUNNING" and pod and pod.state == "PENDING":
            yield Step(name, "WAITING", pod.start_time, None)
        elif task.state == "SUCCEEDED" and {other.state for other in executors} == {"SKIPPED"}:
            yield Step(name, "CACHED", task.start_time, _ended(task))
        else:
            yield Step(name, task.state, task.start_time, _ended(task))


def _is_executor_of(task: V2beta1PipelineTaskDetail, step: V2beta1PipelineTaskDetail) -> bool:
    """Return whether a task is the executor of a step, or a try of it, "executor(0)" and so on.

    They do not name their step, so they are assigned by time: steps run one after the other.
    """
    if task.display_name.partition("(")[0] != "executor" or task.start_time < step.start_time:
        return False
    return _ended(step) is None or task.start_time <= _ended(step)


def _minutes(step: Step, now: datetime) -> int:
    """Return the number of minutes that the step has been waiting for a node."""
    return int((now - step.started).total_seconds() // 60) if step.state == "WAITING" else 0


def _line(step: Step, title: str, needs: str | None, waited: int) -> str:
    moment = step.ended or step.started
    line = f"{moment:%H:%M:%S}  {title:<14} "
    if step.state == "WAITING" and not waited:
        return line + "pending"
    if step.state == "WAITING":
        return line + f"waiting for a node{' with ' + needs if needs else ''} ({waited} min)"
    line += step.state.lower()
    if step.ended and step.state in EXIT_CODES:
        seconds = round((step.ended - step.started).total_seconds())
        line += f" after {seconds // 60} min {seconds % 60} s"
    return line


def failure(
    client, run: V2beta1Run, steps: dict[str, str], namespace: str = "kubeflow"
) -> tuple[str, str]:
    """Return the display name of the step that failed first and the reason, or "" if unknown.

    Args:
        steps: Name of a step's task -> display name.
        namespace: Namespace of the run's pods.
    """
    failed = [step for step in started_steps(run, steps) if step.state == "FAILED"]
    if not failed:
        return "", (run.error and run.error.message) or ""
    step = min(failed, key=lambda step: str(step.ended))
    node = _failed_node(run, step)
    log = _log(client, run, node, namespace) if node else ""
    lines = list(without_kfp(log.splitlines()))
    return steps[step.name], reason(lines, 1) if lines else ""


def _failed_node(run: V2beta1Run, step: Step) -> str:
    """Return Argo's node ID of a failed step's last try, or "" if unknown."""
    (task,) = [task for task in _tasks(run) if task.display_name == step.name][-1:]
    tries = [
        pod
        for pod in _tasks(run)
        if pod.display_name == "executor" and pod.state == "FAILED" and _is_executor_of(pod, task)
    ]
    nodes = [child.pod_name for pod in tries for child in pod.child_tasks or [] if child.pod_name]
    return nodes[-1] if nodes else ""


def _log(client, run: V2beta1Run, node: str, namespace: str) -> str:
    """Return the log of a node's pod, or "" if it cannot be read."""

    def get(path: str, query: dict[str, str]) -> str:
        try:
            log = client.runs.api_client.call_api(
                path,
                "GET",
                query_params=query,
                auth_settings=["Bearer"],
                response_type="object",
                _return_http_data_only=True,
            )
        except (ApiException, urllib3.exceptions.HTTPError, kubeflow.WebPage):
            return ""  # The log is on the run's page, whose link is printed.
        # If the log cannot be read, the answer is a JSON object, with status 200.
        return log if isinstance(log, str) else ""

    # Only this version of the API has logs.
    log = get(f"/apis/v1alpha1/runs/{run.run_id}/nodes/{node}/log", {})
    if not log:
        # The UI does not forward that path to the API; it has its own for a pod's log.
        workflow, _, number = node.rpartition("-")
        pod = f"{workflow}-retry-system-container-impl-{number}"
        query = {"podname": pod, "podnamespace": namespace, "runid": run.run_id}
        log = get("/k8s/pod/logs", query)
    return log
