"""Two real workers, each a process: one is killed, and both are restarted and finish together."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kubernetes.client import V1PodList

from components.train import command_line, trainer_config
from components.workers import coordinator, manifests
from components.workers.cluster import Cluster
from pipeline.paths import ROOT
from tests.components.workers.pods import pod as pod_of
from tests.components.workers.pods import terminated
from tests.components.workers.test_coordinator import Api
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records

FLAGS = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3, "batch_size": 2}


class Processes(Api):
    """Runs the pods of a Job as processes."""

    def __init__(self, own_pod: dict, folder: Path):
        super().__init__(own_pod, [])
        self.started = []
        self._folder = folder

    def create_namespaced_job(self, namespace, body, **_):
        super().create_namespaced_job(namespace, body)
        (container,) = body["spec"]["template"]["spec"]["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        message = {"WORKER_MESSAGE_FILE": str(self._folder / "message")}
        index = {"JOB_COMPLETION_INDEX": "0"}
        command = [sys.executable, *container["command"][1:]]
        process = subprocess.Popen(command, env=os.environ | environment | message | index)
        self.started.append(process)

    def delete_namespaced_job(self, name, namespace, **_):
        super().delete_namespaced_job(name, namespace)
        self.started[-1].kill()
        self.started[-1].wait()

    delete_namespaced_service = Api.delete_namespaced_job

    def list_namespaced_pod(self, namespace, **_):
        code = self.started[-1].poll()
        if code is None:
            return V1PodList(items=[pod_of()])
        return V1PodList(items=[terminated(code if code >= 0 else 128 - code)])


def local_addresses() -> list[str]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("localhost", 0))
        other.bind(("localhost", 0))
        return [f"localhost:{bound.getsockname()[1]}" for bound in (one, other)]


@pytest.mark.slow
def test_a_killed_worker_ends_both_and_both_resume(pod, monkeypatch, tmp_path, capfd):
    rng = np.random.default_rng(3)
    for shard in range(2):
        videos = [
            {"id": b"a", "labels": np.array([1]), "rgb": rng.normal(size=2)} for _ in range(16)
        ]
        write_records(
            str(tmp_path / f"train{shard}.tfrecord"), [encode_example(video) for video in videos]
        )
    monkeypatch.setattr(manifests, "addresses", lambda *_: local_addresses())
    monkeypatch.setenv("KFP_POD_NAME", pod["metadata"]["name"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(coordinator, "POLL_SECONDS", 0.1)
    api = Processes(pod, tmp_path)
    train_dir = tmp_path / "model"

    others = coordinator._Group.others

    def kill_once_there_is_a_checkpoint(group):
        if len(api.started) == 1 and list(train_dir.glob("checkpoints/step-*")):
            api.started[0].kill()
        return others(group)

    monkeypatch.setattr(coordinator._Group, "others", kill_once_there_is_a_checkpoint)
    config = trainer_config(FLAGS | {"num_epochs": 60, "export_model_steps": 50})
    coordinator.train(
        f"{tmp_path}/train*", str(train_dir), command_line(config), 2, Cluster(api, api, "kubeflow")
    )
    said = capfd.readouterr().err
    assert len(api.started) == 2
    resumed = int(re.search(r"Resuming at step (\d+)", said)[1])
    assert 50 <= resumed < 480
    assert "Finished training at step 480" in said  # 60 epochs of 8 steps
