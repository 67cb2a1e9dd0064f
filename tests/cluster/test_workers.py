"""Training on several workers on a real Kubernetes."""

import json
import uuid

import kubernetes
import pytest
import yaml
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient

from components.workers import manifests
from pipeline.paths import ROOT
from tests.cluster.conftest import NAMESPACE, wait_for
from tests.cluster.test_runs import FOREVER, summary_of, train_pod

pytestmark = pytest.mark.slow

MANAGED = "app.kubernetes.io/managed-by=yt8m-pipeline"


def own_pod(namespace: str, account: str = "pipeline-runner") -> dict:
    """A train step's pod, as recorded, in another namespace and with another account."""
    pod = json.loads((ROOT / "tests/components/workers/train_pod.json").read_text())
    pod["metadata"]["namespace"] = namespace
    pod["spec"]["serviceAccountName"] = account
    return pod


def job_and_service(pod: dict) -> tuple[dict, dict]:
    name = manifests.job_name(pod, 0)
    environment = {"WORKER_ADDRESSES": ",".join(manifests.addresses(pod, 0, 3))}
    job = manifests.job(pod, name, 2, ["--batch_size=8"], environment)
    return job, manifests.service(pod, name)


# The accounts, in a namespace of their own.


def unlabelled(job: dict):
    job["metadata"]["labels"] = {"app": "x"}


@pytest.fixture(scope="module")
def namespace(core):
    """A namespace with the accounts and permissions that infra/kubernetes/ holds."""
    name = f"yt8m-test-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name}})
    dynamic = DynamicClient(kubernetes.client.ApiClient())
    for file in ("accounts.yaml", "workers.yaml"):
        for manifest in yaml.safe_load_all((ROOT / "infra/kubernetes" / file).read_text()):
            kind = dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
            place = {"namespace": name} if kind.namespaced else {}
            for subject in manifest.get("subjects", []):
                subject["namespace"] = name  # as kubectl does
            kind.server_side_apply(body=manifest, field_manager="yt8m-test", **place)
    wait_for(lambda: refused(name, unlabelled), 60)
    yield name
    core.delete_namespace(name)


def test_the_api_server_accepts_the_job_and_the_service(core, namespace):
    job, service = job_and_service(own_pod(namespace))
    strictly = {"dry_run": "All", "field_validation": "Strict"}
    created = kubernetes.client.BatchV1Api().create_namespaced_job(namespace, job, **strictly)
    assert created.spec.backoff_limit_per_index == 0
    core.create_namespaced_service(namespace, service, **strictly)


def as_account(namespace: str, account: str = "yt8m-training") -> kubernetes.client.ApiClient:
    client = kubernetes.client.ApiClient()
    client.set_default_header("Impersonate-User", f"system:serviceaccount:{namespace}:{account}")
    return client


def refused(namespace: str, change=lambda job: None) -> str:
    """Why the training account may not create a Job, once it is changed; "" if it may."""
    job, _ = job_and_service(own_pod(namespace, "yt8m-training"))
    change(job)
    batch = kubernetes.client.BatchV1Api(as_account(namespace))
    try:
        batch.create_namespaced_job(namespace, job, dry_run="All")
    except ApiException as error:
        return json.loads(error.body)["message"]
    return ""


def test_the_account_may_create_what_several_workers_need(namespace):
    assert refused(namespace) == ""
    _, service = job_and_service(own_pod(namespace, "yt8m-training"))
    core = kubernetes.client.CoreV1Api(as_account(namespace))
    core.create_namespaced_service(namespace, service, dry_run="All")
    core.list_namespaced_pod(namespace)


def pod_of(job: dict) -> dict:
    return job["spec"]["template"]["spec"]


SECRET = {"name": "x", "valueFrom": {"secretKeyRef": {"name": "password", "key": "x"}}}


@pytest.mark.parametrize(
    "change, reason",
    [
        (unlabelled, "Only Jobs and Services that are labelled"),
        (
            lambda job: pod_of(job).update(serviceAccountName="yt8m-publishing"),
            "must have the service account that creates the Job",
        ),
        (
            lambda job: pod_of(job).pop("serviceAccountName"),
            "must have the service account that creates the Job",
        ),
        (
            lambda job: pod_of(job)["volumes"].append(
                {"name": "x", "secret": {"secretName": "password"}}
            ),
            "may mount volume claims",
        ),
        (
            lambda job: pod_of(job)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
            "may mount volume claims",
        ),
        (
            lambda job: pod_of(job)["containers"][0]["env"].append(SECRET),
            "may not read secrets or ConfigMaps",
        ),
        (
            lambda job: pod_of(job)["containers"][0].update(
                envFrom=[{"secretRef": {"name": "password"}}]
            ),
            "may not read secrets or ConfigMaps",
        ),
    ],
)
def test_the_account_may_not_reach_further_through_a_job(namespace, change, reason):
    assert reason in refused(namespace, change)


def test_the_account_may_do_nothing_else(namespace):
    core = kubernetes.client.CoreV1Api(as_account(namespace))
    batch = kubernetes.client.BatchV1Api(as_account(namespace))
    body = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
    for forbidden in (
        lambda: core.create_namespaced_pod(namespace, body, dry_run="All"),
        lambda: core.list_namespaced_secret(namespace),
        lambda: core.list_namespaced_pod("default"),
        lambda: batch.patch_namespaced_job("x", namespace, {}),
        lambda: core.delete_namespaced_pod("x", namespace),
    ):
        with pytest.raises(ApiException) as raised:
            forbidden()
        assert raised.value.status == 403


def test_the_account_may_not_delete_the_services_of_others(namespace):
    admin = kubernetes.client.CoreV1Api()
    service = {"metadata": {"name": "others"}, "spec": {"ports": [{"port": 80}]}}
    admin.create_namespaced_service(namespace, service)
    core = kubernetes.client.CoreV1Api(as_account(namespace))
    with pytest.raises(ApiException, match="Only Jobs and Services that are labelled"):
        core.delete_namespaced_service("others", namespace)


# Runs.


def workers(cluster, run_id: str) -> list:
    """The pods of the Job of a run."""
    selector = f"{MANAGED},pipeline/runid={run_id}"
    return cluster.core.list_namespaced_pod(NAMESPACE, label_selector=selector).items


def left(cluster, run_id: str) -> list[str]:
    """Names of the Jobs, Services and pods that a run has left."""
    selector = f"{MANAGED},pipeline/runid={run_id}"
    batch = kubernetes.client.BatchV1Api()
    found = [
        *batch.list_namespaced_job(NAMESPACE, label_selector=selector).items,
        *cluster.core.list_namespaced_service(NAMESPACE, label_selector=selector).items,
    ]
    return [one.metadata.name for one in found]


def running(cluster, run_id: str, number: int) -> list:
    def all_running():
        pods = workers(cluster, run_id)
        ready = len(pods) == number and all(pod.status.phase == "Running" for pod in pods)
        return pods if ready else None

    return wait_for(all_running)


def metrics_of(cluster, submitted, output: str) -> dict:
    return summary_of(cluster, submitted, output)["metrics"]


def test_three_workers_one_of_them_killed_train_as_one(cluster):
    # Each step is on all videos, so the number of workers and a restart do not change their order.
    words = ["num_epochs=400", "node_cpu=100m", "trainer_flags=--export_model_steps=20"]
    one = cluster.submit(*cluster.parameters("workers1", *words, "batch_size=600"))
    assert one.end() == 0, one.output
    words += ["num_workers=3", "batch_size=200"]
    three = cluster.submit(*cluster.parameters("workers3", *words))
    pods = running(cluster, three.run_id, 2)
    train = f"{cluster.folder}/workers3/train"
    wait_for(lambda: "step-" in cluster.run("sh", "-c", f"ls {train}/*/checkpoints || true"))
    cluster.core.delete_namespaced_pod(pods[1].metadata.name, NAMESPACE, grace_period_seconds=0)
    own = train_pod(cluster, three.run_id)

    def log() -> str:
        return cluster.core.read_namespaced_pod_log(own.metadata.name, NAMESPACE, container="main")

    wait_for(lambda: "Resuming at step" in log())
    assert "Restarting all 3: worker 0 stopped, worker 1 stopped, worker 2 lost." in log()
    assert three.end() == 0, three.output
    assert left(cluster, three.run_id) == []
    expected = metrics_of(cluster, one, "workers1")
    found = metrics_of(cluster, three, "workers3")
    for name in ("gap", "hit_at_1", "perr", "map", "loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_cancelling_a_run_deletes_its_workers(cluster):
    words = ["num_workers=2", "node_cpu=100m", FOREVER]
    run = cluster.submit(*cluster.parameters("workers-cancel", *words))
    running(cluster, run.run_id, 1)
    run.terminate()
    assert run.end() == 3
    wait_for(lambda: not left(cluster, run.run_id) and not workers(cluster, run.run_id), 60)


def test_cancelling_a_run_whose_workers_wait_for_a_node_deletes_them(cluster):
    node = cluster.core.list_node().items[0].status.allocatable["cpu"]
    words = ["num_workers=3", f"node_cpu={int(node) * 1000 // 2}m", FOREVER]
    run = cluster.submit(*cluster.parameters("workers-wait", *words))
    own = train_pod(cluster, run.run_id)

    def log() -> str:
        return cluster.core.read_namespaced_pod_log(own.metadata.name, NAMESPACE, container="main")

    wait_for(lambda: "waiting for a node" in log())
    run.terminate()
    assert run.end() == 3
    wait_for(lambda: not left(cluster, run.run_id) and not workers(cluster, run.run_id), 60)


def test_more_workers_than_files_is_an_error_before_the_data_is_read(cluster):
    run = cluster.submit(*cluster.parameters("workers-many", "num_workers=99"))
    assert run.end() == 1
    assert "num_workers must not exceed the number of training files" in run.output
