"""A real Kubeflow: the one at KF_PIPELINES_ENDPOINT, in the cluster of the current kubeconfig.

It must have what docs/kind.md sets up: the images on its nodes (with the tag YT8M_IMAGE_TAG, if it
is set), and the volume claim yt8m. test_kubernetes.py and test_serving.py need only the images, and
a Kubernetes.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes
import pytest
import yaml
from kubernetes.stream import stream

from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow.connection import ConnectionConfig
from pipeline.paths import ROOT, VERSION

NAMESPACE = os.environ.get("YT8M_CLUSTER_NAMESPACE", "kubeflow")
TAG = os.environ.get("YT8M_IMAGE_TAG", VERSION)
IMAGES = {"data": f"yt8m-data:{TAG}", "trainer": f"yt8m-trainer:{TAG}"}
SERVING_IMAGE = f"yt8m-serving:{TAG}"
MANIFESTS = ROOT / "infra" / "kubernetes"
PROFILE = "laptop"
SMALL = ["num_classes=10", "batch_size=64", "base_learning_rate=0.05", "num_epochs=2"]


class Cluster:
    """The cluster, and a pod in it that sees the volume on which the steps work.

    Attributes:
        pipeline: The compiled training pipeline.
        prediction: The compiled pipeline of batch prediction.
        folder: Where this session's data and results are on the volume.
    """

    def __init__(self, pipeline: Path, prediction: Path, image: str):
        self.core = kubernetes.client.CoreV1Api()
        self.client = kubeflow.connect(ConnectionConfig(host=os.environ["KF_PIPELINES_ENDPOINT"]))
        self.pipeline = pipeline
        self.prediction = prediction
        self._pod = f"yt8m-test-{uuid.uuid4().hex[:8]}"
        self.folder = f"/data/{self._pod}"
        self._start_pod(image)

    def _start_pod(self, image: str):
        container = {
            "name": "main",
            "image": image,
            "command": ["sleep", "7200"],
            "env": [{"name": "PYTHONPATH", "value": "/opt/yt8m"}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        claim = {"name": "data", "persistentVolumeClaim": {"claimName": "yt8m"}}
        spec = {"restartPolicy": "Never", "containers": [container], "volumes": [claim]}
        self.core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": self._pod}, "spec": spec})
        wait_for(
            lambda: self.core.read_namespaced_pod(self._pod, NAMESPACE).status.phase == "Running"
        )
        self.run(
            "python3",
            "-m",
            "components.generate_data",
            f"--directory={self.folder}/set",
            "--num_videos=300",
            "--num_classes=10",
        )

    def remove(self):
        self.run("rm", "-rf", self.folder)
        self.core.delete_namespaced_pod(self._pod, NAMESPACE, grace_period_seconds=0)

    def run(self, *command: str) -> str:
        """Run a command in the pod; return what it prints."""
        return execute(self.core, NAMESPACE, self._pod, *command)

    def read_json(self, path: str) -> dict:
        """Return a JSON file on the volume."""
        return json.loads(self.run("cat", f"{self.folder}/{path}"))

    def parameters(self, output: str, *more: str) -> list[str]:
        """The parameters of a run on the small data set."""
        data = [f"{name}_data={self.folder}/set/{name}*" for name in ("train", "eval")]
        return [*data, f"output_dir={self.folder}/{output}", *SMALL, *more]

    def submit(self, *words: str, pipeline: Path | None = None) -> "Submitted":
        """Start `python -m pipeline submit --wait`."""
        file = pipeline or self.pipeline
        return Submitted(self, ["submit", "--wait", f"--pipeline={file}", *words])

    def pods(self, run_id: str) -> list:
        """The pods of a run in which steps ran, oldest first."""
        label = f"pipeline/runid={run_id}"
        pods = self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items
        steps = [pod for pod in pods if "-impl-" in pod.metadata.name]
        return sorted(steps, key=lambda pod: pod.metadata.creation_timestamp)


class Submitted:
    """A submitted run that is being followed."""

    def __init__(self, cluster: Cluster, words: list[str]):
        self.cluster = cluster
        self.output = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def run_id(self) -> str:
        return self.line("/runs/details/").rsplit("/", 1)[1]

    def line(self, text: str) -> str:
        """Return the first line that contains the text, when it has been printed."""
        while True:
            for line in self.output.splitlines():
                if text in line:
                    return line
            line = self._process.stdout.readline()
            assert line, f"No line with {text!r} in:\n{self.output}"
            self.output += line

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        self.output += self._process.stdout.read()
        return self._process.wait()

    def terminate(self):
        self.cluster.client.terminate_run(self.run_id)


def execute(core, namespace: str, pod: str, *command: str) -> str:
    """Run a command in a pod; return what it prints."""
    connect = core.connect_get_namespaced_pod_exec
    words = {"command": list(command), "stdout": True, "stderr": True}
    ran = stream(connect, pod, namespace, _preload_content=False, **words)
    ran.run_forever(timeout=600)
    assert ran.returncode == 0, ran.read_stderr()
    return ran.read_stdout()


def manifests(file: str) -> list[dict]:
    """Return the objects of a file in infra/kubernetes."""
    return list(yaml.safe_load_all((MANIFESTS / file).read_text()))


def wait_for(condition: Callable, seconds: float = 300):
    """Return what the condition returns when that is true."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(2)
    return result


@pytest.fixture(scope="session")
def core() -> kubernetes.client.CoreV1Api:
    """The API of the current kubeconfig's cluster, if it may be used."""
    if not os.environ.get("KF_PIPELINES_ENDPOINT") and os.environ.get("YT8M_KUBERNETES") != "1":
        pytest.skip(
            "NOT RUN, for it needs a Kubernetes cluster: YT8M_KUBERNETES=1 runs it in that of the "
            "current kubeconfig"
        )
    kubernetes.config.load_kube_config()
    return kubernetes.client.CoreV1Api()


@pytest.fixture(scope="module")
def namespace(core) -> Iterator[str]:
    """A namespace that admits only pods that meet the pod security standard "restricted"."""
    name = f"yt8m-test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": name, "labels": labels}})
    wait_for(lambda: core.list_namespaced_service_account(name).items)
    yield name
    core.delete_namespace(name)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    if not os.environ.get("KF_PIPELINES_ENDPOINT"):
        pytest.skip("NOT RUN, for it needs Kubeflow: KF_PIPELINES_ENDPOINT names none")
    kubernetes.config.load_kube_config()
    config = CompileConfig(str(tmp_path_factory.mktemp("build")), profile=PROFILE)
    pipelines = [
        compile_pipeline(config, IMAGES, name)["kubeflow"] for name in ("train", "predict")
    ]
    cluster = Cluster(*pipelines, IMAGES["data"])
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def fake_gpu(cluster) -> Iterator[None]:
    """A node that says that it has one nvidia.com/gpu."""
    node = cluster.core.list_node().items[0].metadata.name

    def set_count(count: str):
        counts = {"nvidia.com/gpu": count}
        body = {"status": {"capacity": counts, "allocatable": counts}}
        cluster.core.patch_node_status(node, body)

    set_count("1")
    yield
    set_count("0")
