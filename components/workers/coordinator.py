"""Trains on several workers, from the train step's own pod: starts, watches and restarts them."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.workers import manifests, status
from components.workers.__main__ import ADDRESSES, CONNECTED_FILE, MESSAGE_FILE, RESTART
from components.workers.cluster import Cluster
from components.workers.manifests import RUN_LABEL
from components.workers.status import ENDED, MUST_END, Worker
from trainer.common.errors import UserError

WORKER = (sys.executable, "-m", "components.workers")
MAX_RESTARTS = 10
POLL_SECONDS = 2

# How long worker 0 may take to end by itself once another worker was lost: it saves a checkpoint,
# and uploads it to gs://. While it connects, it would wait for the lost worker for ever.
MAX_SECONDS_TO_SAVE = 600
MAX_SECONDS_TO_CONNECT = 20
# How long the status of the other workers may lag behind the end of worker 0.
MAX_SECONDS_TO_END = 60
SECONDS_TO_TERMINATE = 10


def train(
    train_data: str,
    train_dir: str,
    argv: list[str],
    num_workers: int,
    cluster: Cluster | None = None,
):
    """Train a model on `num_workers` workers, or resume.

    Worker 0 is a process in this pod, and a Kubernetes Job runs the others. If one is lost, all of
    them end with a checkpoint and are started again, up to MAX_RESTARTS times.

    Args:
        train_data: Glob(s) of the training shards.
        train_dir: The trainer's folder. All workers must see it under this name.
        argv: The trainer's other flags.
        num_workers: Number of workers, at least 2.
        cluster: By default the one that this pod is in.

    Raises:
        UserError: A worker failed with an error of its own, workers were lost too often, or the
            cluster refuses to start them.
    """
    cluster = cluster or Cluster.of_this_pod()
    pod = cluster.own_pod()
    cluster.delete_all(pod["metadata"]["labels"][RUN_LABEL])  # of a try that was killed
    argv = [*argv, f"--train_data_pattern={train_data}", f"--train_dir={train_dir}"]
    for attempt in range(MAX_RESTARTS + 1):
        with _ends_by_sigterm(), _started(cluster, pod, attempt, num_workers, argv) as group:
            _wait_until_running(group)
            workers = _train_together(group, argv)
        if workers[0].state == "succeeded":
            return
        _raise_own_error(workers)
        logging.warning("A worker was lost. Restarting all %d: %s.", num_workers, _ends(workers))
    raise UserError(
        f"Gave up after {MAX_RESTARTS} restarts of all workers. At the end: {_ends(workers)}."
    )


@dataclass
class _Group:
    """The workers of one attempt.

    Attributes:
        addresses: host:port of each.
        name: Name of the Job that runs the workers from 1 on.
    """

    cluster: Cluster
    addresses: list[str]
    name: str
    _created: set[int] = field(default_factory=set)
    _workers: list[Worker] = field(default_factory=list)

    def others(self) -> list[Worker]:
        """Return the workers from 1 on; log their states when they change."""
        pods = self.cluster.pods_of_job(self.name)
        if pods is not None:
            # One that has ended stays so, even if Kubernetes has removed its pod since.
            ended = {worker.index: worker for worker in self._workers if worker.state in ENDED}
            found = status.workers(pods, len(self.addresses), self._created)
            workers = [ended.get(worker.index, worker) for worker in found]
            if workers != self._workers:
                logging.info("Other workers: %s.", status.summary(workers).rstrip("."))
            self._workers = workers
        return self._workers


@contextlib.contextmanager
def _started(
    cluster: Cluster, pod: dict, attempt: int, num_workers: int, argv: list[str]
) -> Iterator[_Group]:
    """Create the Service and the Job; delete them at the end."""
    name = manifests.job_name(pod, attempt)
    addresses = manifests.addresses(pod, attempt, num_workers)
    environment = {ADDRESSES: ",".join(addresses)}
    job = manifests.job(pod, name, num_workers - 1, argv, environment)
    try:
        cluster.create(manifests.service(pod, name), job)
        logging.info(
            "Created the Job %s with %d of %d workers.", name, num_workers - 1, num_workers
        )
        yield _Group(cluster, addresses, name)
    finally:
        cluster.delete(name)


def _wait_until_running(group: _Group):
    """Wait until all pods run or one has ended. Nodes for them may have to be added first."""
    while True:
        workers = group.others()
        running = bool(workers) and all(worker.state == "running" for worker in workers)
        if running or _ended(workers):
            return
        time.sleep(POLL_SECONDS)


def _train_together(group: _Group, argv: list[str]) -> list[Worker]:
    """Run worker 0 until all workers have ended; return how each did."""
    if _ended(group.others()):
        return [Worker(0, "stopped"), *group.others()]
    with tempfile.TemporaryDirectory() as folder:
        message_file, connected_file = Path(folder) / "message", Path(folder) / "connected"
        environment = {
            ADDRESSES: ",".join(group.addresses),
            MESSAGE_FILE: str(message_file),
            CONNECTED_FILE: str(connected_file),
        }
        process = subprocess.Popen([*WORKER, *argv], env=os.environ | environment)
        try:
            ended = _watch(process, group, connected_file)
        finally:
            _terminate(process)
        message = message_file.read_text() if message_file.exists() else ""
    _wait(lambda: all(worker.state in ENDED for worker in group.others()), MAX_SECONDS_TO_END)
    state = _end(process.returncode, message) if ended else ("stopped",)
    return [Worker(0, *state), *group.others()]


def _watch(process: subprocess.Popen, group: _Group, connected_file: Path) -> bool:
    """Wait for the end of worker 0, which ends by itself after another worker was lost.

    Returns:
        Whether it ended by itself.
    """
    while process.poll() is None:
        if any(worker.state in MUST_END for worker in group.others()):
            seconds = MAX_SECONDS_TO_SAVE if connected_file.exists() else MAX_SECONDS_TO_CONNECT
            return _wait(lambda: process.poll() is not None, seconds)
        time.sleep(POLL_SECONDS)
    return True


def _wait(condition, seconds: float) -> bool:
    """Wait until the condition is true; return whether it is."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return bool(met)


def _ended(workers: list[Worker]) -> bool:
    return any(worker.state in ENDED for worker in workers)


def _terminate(process: subprocess.Popen):
    """End worker 0, if it still runs, with a checkpoint if it can write one."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(SECONDS_TO_TERMINATE)
    except subprocess.TimeoutExpired:  # blocked in TensorFlow, which handles no signals
        process.kill()
        process.wait()


def _end(code: int, message: str) -> tuple[str, str]:
    """Return the state of worker 0 and its detail, by the exit code of its process."""
    if code == 0:
        return "succeeded", ""
    if code in (RESTART, 128 + signal.SIGTERM, -signal.SIGTERM):
        return "stopped", ""
    if code == -signal.SIGKILL:
        return "failed", "It was killed, probably at its memory limit. Increase node_memory."
    return "failed", message or f"It ended with exit code {code}. See the log."


def _raise_own_error(workers: list[Worker]):
    """Raise the error of a worker that failed, unless the reason may be that another was lost."""
    if any(worker.state == "lost" for worker in workers):
        return
    for worker in workers:
        if worker.state == "failed":
            raise UserError(f"Worker {worker.index} of {len(workers)} failed: {worker.detail}")


def _ends(workers: list[Worker]) -> str:
    return ", ".join(f"worker {worker.index} {worker.state}" for worker in workers)


@contextlib.contextmanager
def _ends_by_sigterm() -> Iterator[None]:
    """Leave the body by an exception at SIGTERM, so that what it created is deleted."""

    def leave(number, _):
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
