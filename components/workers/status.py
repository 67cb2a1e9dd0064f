"""State and exit of a worker's pod."""

import signal
from collections import Counter
from dataclasses import dataclass

from kubernetes.client import V1ContainerStateTerminated, V1Pod

from components.workers.__main__ import RESTART

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
MUST_END = ("failed", "stopped", "lost")  # states of a worker without which the others end too
ENDED = ("succeeded", *MUST_END)


@dataclass(frozen=True)
class Worker:
    """One worker.

    Attributes:
        index: Its index among the workers.
        state: "pending"; "running"; "succeeded"; "failed": it ended with an error of its own;
            "stopped": it ended because all workers must restart; "lost": it was killed or its pod
            was deleted.
        detail: What it is waiting for, or how it ended.
    """

    index: int
    state: str
    detail: str = ""


def workers(pods: list[V1Pod], num_workers: int, created: set[int]) -> list[Worker]:
    """Return the workers from 1 on.

    Args:
        pods: The Job's pods.
        num_workers: Number of workers, including worker 0.
        created: Indices of the workers whose pods were seen before. A pod that is missing was
            deleted if it is one of them; otherwise it is not created yet. Updated.
    """
    found = {}
    for pod in pods:
        index = int(pod.metadata.annotations[INDEX_ANNOTATION]) + 1
        found[index] = worker(index, pod)
    missing = {
        index: Worker(index, "lost", "its pod was deleted")
        if index in created
        else Worker(index, "pending", "its pod is not created yet")
        for index in range(1, num_workers)
    }
    created.update(found)
    return [(missing | found)[index] for index in range(1, num_workers)]


def worker(index: int, pod: V1Pod) -> Worker:
    """Return the state of the worker in a pod."""
    status = pod.status
    container = (status.container_statuses or [None])[0]
    terminated = container.state.terminated if container else None
    if terminated:
        return Worker(index, *_end(terminated))
    if status.reason or status.phase in ("Failed", "Unknown"):  # such as Evicted or NodeLost
        return Worker(index, "lost", status.message or status.reason or f"pod {status.phase}")
    if pod.metadata.deletion_timestamp:
        return Worker(index, "lost", "its pod is being deleted")
    if status.phase == "Running":
        return Worker(index, "running")
    waiting = container.state.waiting if container else None
    if waiting and waiting.reason != "ContainerCreating":
        return Worker(index, "pending", f"{waiting.reason}: {waiting.message or ''}".rstrip(": "))
    scheduled = [c for c in status.conditions or [] if c.type == "PodScheduled"]
    if scheduled and scheduled[0].status == "False":
        return Worker(index, "pending", f"waiting for a node: {scheduled[0].message}")
    return Worker(index, "pending")


def _end(terminated: V1ContainerStateTerminated) -> tuple[str, str]:
    code, message = terminated.exit_code, (terminated.message or "").strip()
    if terminated.reason == "OOMKilled":
        return "failed", "It exceeded its memory limit. Increase node_memory."
    if code == 0:
        return "succeeded", ""
    if code in (RESTART, 128 + signal.SIGTERM):
        return "stopped", ""
    if code > 128:
        return "lost", f"killed by {_signal_name(code - 128)}"
    if "Traceback (most recent call last)" in message:  # the end of the log
        message = message.splitlines()[-1]
    return "failed", message or f"It ended with exit code {code}."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def summary(workers: list[Worker]) -> str:
    """Return the states in a line, such as "2 running, 1 pending (worker 3: ...)"."""
    counts = Counter(worker.state for worker in workers)
    details = [f"worker {w.index}: {w.detail}" for w in workers if w.detail]
    shown = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{shown} ({'; '.join(details)})" if details else shown
