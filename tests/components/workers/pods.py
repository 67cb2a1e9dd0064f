"""Pods of workers, as the Kubernetes API describes them."""

from datetime import datetime

from kubernetes.client import (
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStateWaiting,
    V1ContainerStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodStatus,
)


def pod(phase="Running", index=0, deleted=False, state=None, **status) -> V1Pod:
    container = V1ContainerStatus(
        image="",
        image_id="",
        name="main",
        ready=False,
        restart_count=0,
        state=state or V1ContainerState(),
    )
    annotations = {"batch.kubernetes.io/job-completion-index": str(index)}
    deletion = datetime(2026, 1, 1) if deleted else None
    return V1Pod(
        metadata=V1ObjectMeta(annotations=annotations, deletion_timestamp=deletion),
        status=V1PodStatus(phase=phase, container_statuses=[container], **status),
    )


def terminated(code: int, message: str = "", reason: str = "Error", index: int = 0) -> V1Pod:
    end = V1ContainerStateTerminated(exit_code=code, message=message, reason=reason)
    phase = "Failed" if code else "Succeeded"
    return pod(phase, index, state=V1ContainerState(terminated=end))


def waiting(reason: str, message: str | None = None) -> V1Pod:
    wait = V1ContainerStateWaiting(reason=reason, message=message)
    return pod("Pending", state=V1ContainerState(waiting=wait))
