"""Starting, watching and restarting workers, against an API made of the real client's models."""

import json
import sys
from types import SimpleNamespace

import pytest
from kubernetes.client import (
    ApiClient,
    ApiException,
    V1ObjectMeta,
    V1PodCondition,
    V1PodList,
    V1Service,
    V1ServiceList,
)

from components.workers import coordinator
from components.workers.cluster import Cluster
from tests.components.workers.pods import pod, terminated, waiting
from trainer.common.errors import UserError

RUNNING = [pod(index=0), pod(index=1)]
LOST = [pod(index=0), pod(index=1, deleted=True)]
DONE = [terminated(0, index=0), terminated(0, index=1)]

# Ends as the next word of a file says. CODE: with this exit code. slow-CODE: with this exit code, a
# while after it has connected to the other workers. connects: once it is killed.
WORKER_0 = """
import os, pathlib, signal, sys, time

file = pathlib.Path(sys.argv[1])
how, *later = file.read_text().split()
file.write_text(" ".join(later))
if how == "connects":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as TensorFlow does
    time.sleep(60)
if how.startswith("slow-"):
    pathlib.Path(os.environ["WORKER_CONNECTED_FILE"]).touch()
    time.sleep(1)
    how = how.removeprefix("slow-")
pathlib.Path(os.environ["WORKER_MESSAGE_FILE"]).write_text("Said by worker 0.")
sys.exit(int(how))
"""


class Api:
    """Pods, Services and Jobs of a namespace, in place of CoreV1Api and BatchV1Api.

    Attributes:
        jobs: Manifests of the Jobs that were created.
        left: Names of Jobs and Services that were not deleted.
    """

    def __init__(self, own_pod: dict, attempts: list):
        self.api_client = ApiClient()
        self.jobs = []
        self.left = []
        self._own_pod = own_pod
        self._attempts = attempts
        self._services = {}

    def read_namespaced_pod(self, name, namespace, **_):
        assert (name, namespace) == (self._own_pod["metadata"]["name"], "kubeflow")
        answer = SimpleNamespace(data=json.dumps(self._own_pod))
        return self.api_client.deserialize(answer, "V1Pod")

    def create_namespaced_service(self, namespace, body, **_):
        self.left.append(body["metadata"]["name"])
        self._services[body["metadata"]["name"]] = body

    def create_namespaced_job(self, namespace, body, **_):
        self.left.append(body["metadata"]["name"])
        self.jobs.append(body)

    def delete_namespaced_job(self, name, namespace, **_):
        if name not in self.left:
            raise ApiException(404)
        self.left.remove(name)

    delete_namespaced_service = delete_namespaced_job

    def list_namespaced_service(self, namespace, **_):
        names = [name for name in self._services if name in self.left]
        return V1ServiceList(items=[V1Service(metadata=V1ObjectMeta(name=n)) for n in names])

    def list_namespaced_pod(self, namespace, label_selector, **_):
        name = self.jobs[-1]["metadata"]["name"]
        assert label_selector == f"batch.kubernetes.io/job-name={name}"
        states = self._attempts[len(self.jobs) - 1]
        found = states.pop(0) if len(states) > 1 else states[0]
        if isinstance(found, Exception):
            raise found
        return V1PodList(items=found)


@pytest.fixture
def train(pod, monkeypatch, tmp_path):
    """train(attempts, ends): trains with pods in these states; returns the API.

    Args:
        attempts: For each time that the workers are started, the pods at each look at them.
        ends: How worker 0 ends each time.
    """
    monkeypatch.setenv("KFP_POD_NAME", pod["metadata"]["name"])
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(coordinator, "MAX_SECONDS_TO_CONNECT", 5)
    monkeypatch.setattr(coordinator, "MAX_SECONDS_TO_SAVE", 60)
    monkeypatch.setattr(coordinator, "MAX_SECONDS_TO_END", 1)
    file = tmp_path / "ends"
    monkeypatch.setattr(coordinator, "WORKER", (sys.executable, "-c", WORKER_0, str(file)))

    def train(attempts: list, ends: str) -> Api:
        file.write_text(ends)
        api = Api(pod, attempts)
        try:
            coordinator.train("train*", "/model", ["--seed=1"], 3, Cluster(api, api, "kubeflow"))
        finally:
            assert api.left == []
        return api

    return train


def test_trains_when_all_workers_run(train, caplog):
    caplog.set_level("INFO")
    no_gpu = V1PodCondition(type="PodScheduled", status="False", message="no GPU")
    start = [waiting("ContainerCreating"), pod("Pending", index=1, conditions=[no_gpu])]
    api = train([[[], start, RUNNING, RUNNING, DONE]], "0")
    (job,) = api.jobs
    assert job["spec"]["completions"] == 2
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][3:] == [
        "--seed=1",
        "--train_data_pattern=train*",
        "--train_dir=/model",
    ]
    said = [message for message in caplog.messages if message.startswith("Other workers")]
    assert said[1:] == [
        "Other workers: 2 pending (worker 2: waiting for a node: no GPU).",
        "Other workers: 2 running.",
        "Other workers: 2 succeeded.",
    ]


def test_a_lost_worker_restarts_all(train, caplog):
    stopped = [terminated(75, "Lost another worker.", index=0)]  # and worker 2 is gone
    api = train([[RUNNING, RUNNING, LOST, stopped], [RUNNING, RUNNING, DONE]], "75 0")
    names = [job["metadata"]["name"] for job in api.jobs]
    assert [name[-2:] for name in names] == ["-0", "-1"]
    assert (
        "A worker was lost. Restarting all 3: worker 0 stopped, worker 1 stopped, worker 2 lost."
        in caplog.messages
    )


def test_a_worker_lost_before_all_run_restarts_all(train):
    api = train([[LOST], [RUNNING, RUNNING, DONE]], "0")
    assert len(api.jobs) == 2


def test_an_error_of_another_worker_is_shown_and_not_tried_again(train):
    failed = [terminated(1, "shard7 is damaged.", index=0), terminated(75, index=1)]
    with pytest.raises(UserError, match=r"^Worker 1 of 3 failed: shard7 is damaged\.$"):
        train([[RUNNING, RUNNING, failed]], "75")


def test_an_error_of_worker_0_is_shown_and_not_tried_again(train):
    others = [terminated(75, index=0), terminated(75, index=1)]
    with pytest.raises(UserError, match=r"^Worker 0 of 3 failed: Said by worker 0\.$"):
        train([[RUNNING, RUNNING, others]], "1")


@pytest.mark.slow
def test_worker_0_is_killed_while_it_connects_to_a_lost_worker(train, monkeypatch):
    monkeypatch.setattr(coordinator, "SECONDS_TO_TERMINATE", 0.1)
    api = train([[RUNNING, RUNNING, LOST], [RUNNING, RUNNING, DONE]], "connects 0")
    assert len(api.jobs) == 2


@pytest.mark.slow
def test_the_error_that_kept_another_worker_from_connecting_is_shown(train, monkeypatch):
    monkeypatch.setattr(coordinator, "SECONDS_TO_TERMINATE", 0.1)
    failed = [terminated(1, "found 0 GPUs", index=0), pod(index=1)]
    with pytest.raises(UserError, match="Worker 1 of 3 failed: found 0 GPUs"):
        train([[RUNNING, RUNNING, failed]], "connects")


def test_worker_0_may_save_a_checkpoint_when_another_is_lost(train, caplog):
    train([[RUNNING, RUNNING, LOST], [RUNNING, RUNNING, DONE]], "slow-75 0")
    assert "worker 0 stopped" in caplog.text


def test_worker_0_may_be_the_last_to_end(train, monkeypatch):
    monkeypatch.setattr(coordinator, "MAX_SECONDS_TO_SAVE", 0)
    api = train([[RUNNING, RUNNING, DONE, []]], "slow-0")  # Kubernetes has removed the Job
    assert len(api.jobs) == 1


def test_gives_up_after_too_many_restarts(train, monkeypatch):
    monkeypatch.setattr(coordinator, "MAX_RESTARTS", 2)
    with pytest.raises(UserError, match=r"Gave up after 2 restarts of all workers.*worker 2 lost"):
        train([[LOST], [LOST], [LOST]], "")


def test_an_api_server_that_restarts_does_not_end_the_training(train):
    error = ApiException(503, "Service Unavailable")
    train([[RUNNING, RUNNING, error, error, DONE]], "0")


def test_missing_permissions_are_explained(train, monkeypatch):
    def refuse(*_, **__):
        error = ApiException(403, "Forbidden")
        error.body = json.dumps({"message": 'jobs.batch is forbidden: User "x" cannot create'})
        raise error

    monkeypatch.setattr(Api, "create_namespaced_job", refuse)
    message = 'jobs.batch is forbidden: User "x" cannot create. .*infra/kubernetes/workers.yaml'
    with pytest.raises(UserError, match=message):
        train([], "")


def test_several_workers_need_kubernetes(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="num_workers > 1 needs Kubernetes"):
        coordinator.train("train*", "/model", [], 2)
