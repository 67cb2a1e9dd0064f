"""The shipped Deployment of the model server on a real Kubernetes, as published models change.

It needs kubectl, and the image yt8m-serving on the nodes.
"""

import base64
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes
import numpy as np
import pytest

from tests.cluster.conftest import IMAGES, SERVING_IMAGE, execute, manifests, wait_for
from trainer.data.examples import encode_example

pytestmark = pytest.mark.slow

FEATURES = {"mean_rgb": 1024, "mean_audio": 128}
RECORD = encode_example(
    {"id": "v1"} | {name: np.ones(size, np.float32) for name, size in FEATURES.items()}
)
METRICS = {"challenger": {"gap": 0.5, "hit_at_1": 0.5, "perr": 0.5, "map": 0.5}}
# Two models, a and b.
EXPORT = f"""
set -e
python3 -m components.generate_data --directory=/tmp/set --num_videos=60 --num_classes=3
echo '{json.dumps(METRICS)}' >/yt8m/metrics.json
for model in a b; do
    python3 -m trainer.train '--train_data_pattern=/tmp/set/train*' --train_dir=/yt8m/$model \\
        --feature_names={",".join(FEATURES)} --feature_sizes=1024,128 --num_classes=3 \\
        --num_epochs=$(test $model = a && echo 1 || echo 2)
    python3 -c "from trainer.serving import saved_model
saved_model.export('/yt8m/$model', '/yt8m/exported/$model')"
done
"""
REGISTRY = ["python3", "-m", "components.registry"]
OUTPUT = "--output_dir=/yt8m/output"


@pytest.fixture(scope="module")
def deployment() -> dict:
    """The shipped Deployment, with less CPU and memory."""
    (deployment,) = [one for one in manifests("serving.yaml") if one["kind"] == "Deployment"]
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    server["image"] = SERVING_IMAGE
    server["resources"] = {"requests": {"cpu": "100m", "memory": "512Mi"}}
    return deployment


@pytest.fixture(scope="module")
def run(core, namespace, deployment) -> Callable:
    """run(*command): run a command on the servers' volume, in the trainer's image."""
    claim, _ = manifests("volume.yaml")
    claim["spec"]["resources"]["requests"]["storage"] = "1Gi"
    core.create_namespaced_persistent_volume_claim(namespace, claim)
    pod = json.loads(json.dumps(deployment["spec"]["template"]["spec"]))
    (server,) = pod["containers"]
    container = {name: server[name] for name in ("securityContext", "volumeMounts")}
    container |= {"name": "main", "image": IMAGES["trainer"], "command": ["sleep", "7200"]}
    pod["containers"] = [container]
    core.create_namespaced_pod(namespace, {"metadata": {"name": "models"}, "spec": pod})
    wait_for(lambda: core.read_namespaced_pod("models", namespace).status.phase == "Running")
    return lambda *command: execute(core, namespace, "models", *command)


def publish(model: str, champion: str) -> list[str]:
    """Return the command that publishes a model in place of the champion."""
    command = [*REGISTRY, "publish", OUTPUT, f"--model_dir=/yt8m/exported/{model}"]
    return [*command, "--metrics_file=/yt8m/metrics.json", f"--expected_champion={champion}"]


@pytest.fixture(scope="module")
def servers(core, namespace, deployment, run) -> list[str]:
    """Names of the server's pods, which are ready and serve version 1."""
    run("sh", "-c", EXPORT)
    run(*publish("a", ""))
    client = kubernetes.client.ApiClient()
    (service,) = [one for one in manifests("serving.yaml") if one["kind"] == "Service"]
    for manifest in (service, deployment):
        kubernetes.utils.create_from_dict(client, manifest, namespace=namespace)

    def ready() -> list[str] | None:
        pods = core.list_namespaced_pod(namespace, label_selector="app=yt8m-serving").items
        statuses = [status for pod in pods for status in pod.status.container_statuses or []]
        waiting = [status.state.waiting.reason for status in statuses if status.state.waiting]
        assert not {"ErrImagePull", "ImagePullBackOff"} & set(waiting), f"no {SERVING_IMAGE}"
        are_ready = [status.ready for status in statuses] == [True] * deployment["spec"]["replicas"]
        return [pod.metadata.name for pod in pods] if are_ready else None

    return wait_for(ready, 900)


@contextlib.contextmanager
def forwarded(namespace: str, target: str, port: int, folder: Path) -> Iterator[str]:
    """Yield the address of a free local port that `kubectl port-forward` forwards to a target."""
    if not shutil.which("kubectl"):
        pytest.skip("NOT RUN, for it needs kubectl")
    log = folder / f"{target.replace('/', '-')}.log"
    command = ["kubectl", "port-forward", "--namespace", namespace, target, f":{port}"]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"Forwarding from (127\.0\.0\.1:\d+)", log.read_text())
        return found and f"http://{found[1]}"

    try:
        yield wait_for(address, 60)
    finally:
        process.terminate()
        process.wait()


def predict(address: str) -> int:
    """Send a request; return the version of the model that answers."""
    record = base64.b64encode(RECORD).decode()
    request = urllib.request.Request(
        f"{address}/v1/models/yt8m:predict",
        json.dumps({"instances": [{"examples": {"b64": record}}]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (prediction,) = json.load(answer)["predictions"]
    if prediction["video_id"] != "v1" or sorted(prediction["classes"]) != [0, 1, 2]:
        raise ValueError(f"unexpected answer {prediction}")
    return int(answer.headers["model-version"])


def test_the_service_leads_to_a_server(namespace, servers, tmp_path):
    with forwarded(namespace, "service/yt8m-serving", 80, tmp_path) as address:
        assert predict(address) == 1


def test_each_server_switches_to_published_models_without_a_failed_request(
    namespace, servers, run, tmp_path
):
    failures, stopped = [], threading.Event()

    def send_requests(address: str, versions: list[int]):
        while not stopped.wait(0.05):
            try:
                versions.append(predict(address))
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                failures.append(error)

    def all_serve(version: int) -> bool:
        assert not failures
        return all(versions[-1:] == [version] for versions in answers.values())

    with contextlib.ExitStack() as stack:
        answers = {
            stack.enter_context(forwarded(namespace, f"pod/{pod}", 8080, tmp_path)): []
            for pod in servers
        }
        threads = [threading.Thread(target=send_requests, args=item) for item in answers.items()]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: all_serve(1))
            run(*publish("b", "1"))
            wait_for(lambda: all_serve(2))
            run(*REGISTRY, "rollback", OUTPUT)
            wait_for(lambda: all_serve(3))
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
    assert not failures
    assert len(answers) == 2
    for versions in answers.values():
        assert versions == sorted(versions)
