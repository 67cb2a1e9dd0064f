"""The states of workers, from the status of their pods as Kubernetes reports it."""

import pytest
from kubernetes.client import V1PodCondition

from components.workers.status import Worker, summary, worker, workers
from tests.components.workers.pods import pod, terminated, waiting

UNSCHEDULABLE = V1PodCondition(
    type="PodScheduled", status="False", message="0/1 nodes are available: 1 Insufficient cpu."
)
TRACEBACK = "Traceback (most recent call last):\n  File ...\nMemoryError: no memory"


@pytest.mark.parametrize(
    "given, state, detail",
    [
        (pod("Running"), "running", ""),
        (waiting("ContainerCreating"), "pending", ""),
        (waiting("ErrImagePull", "no such image"), "pending", "ErrImagePull: no such image"),
        (
            pod("Pending", conditions=[UNSCHEDULABLE]),
            "pending",
            "waiting for a node: 0/1 nodes are available: 1 Insufficient cpu.",
        ),
        (terminated(0), "succeeded", ""),
        (terminated(75, "Lost another worker."), "stopped", ""),
        (terminated(143), "stopped", ""),
        (terminated(1, "No file matches 'x'."), "failed", "No file matches 'x'."),
        (terminated(1, TRACEBACK), "failed", "MemoryError: no memory"),
        (terminated(2), "failed", "It ended with exit code 2."),
        (
            terminated(137, reason="OOMKilled"),
            "failed",
            "It exceeded its memory limit. Increase node_memory.",
        ),
        (terminated(137), "lost", "killed by SIGKILL"),
        (pod("Running", deleted=True), "lost", "its pod is being deleted"),
        (pod("Failed", reason="Evicted", message="low on memory"), "lost", "low on memory"),
        (pod("Unknown"), "lost", "pod Unknown"),
    ],
)
def test_state_of_a_worker(given, state, detail):
    assert worker(1, given) == Worker(1, state, detail)


def test_a_pod_that_disappears_is_lost_and_one_that_never_was_is_pending():
    seen = set()
    states = [w.state for w in workers([pod(index=1)], 3, seen)]
    assert states == ["pending", "running"]
    states = [w.state for w in workers([pod(index=0)], 3, seen)]
    assert states == ["running", "lost"]


def test_summary():
    found = [Worker(1, "running"), Worker(2, "running"), Worker(3, "lost", "its pod was deleted")]
    assert summary(found) == "2 running, 1 lost (worker 3: its pod was deleted)"
