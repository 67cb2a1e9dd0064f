"""The Job and the Service of the workers. tests/cluster has a real API server validate them."""

import json

import pytest

from components.workers import manifests


def main_of(pod: dict) -> dict:
    return next(c for c in pod["spec"]["containers"] if c["name"] == "main")


def job(pod: dict, **changes) -> dict:
    arguments = {"name": "train-b5c0d7e0-0", "num_pods": 2, "argv": [], "environment": {}}
    return manifests.job(pod, **arguments | changes)


def worker_of(pod: dict, **changes) -> dict:
    """The pod spec of the workers."""
    return job(pod, **changes)["spec"]["template"]["spec"]


def test_workers_are_like_the_steps_own_pod(pod):
    pod["spec"]["nodeSelector"] = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    pod["spec"]["imagePullSecrets"] = [{"name": "pull"}]
    main_of(pod)["resources"]["limits"]["nvidia.com/gpu"] = "4"
    worker = worker_of(pod)
    for name in (
        "imagePullSecrets",
        "nodeSelector",
        "securityContext",
        "serviceAccountName",
        "tolerations",
    ):
        assert worker[name] == pod["spec"][name]
    (container,) = worker["containers"]
    for name in ("image", "imagePullPolicy", "resources", "securityContext"):
        assert container[name] == main_of(pod)[name]


def test_workers_mount_what_the_profile_mounts_and_nothing_of_argo(pod):
    worker = worker_of(pod)
    (container,) = worker["containers"]
    assert [(mount["name"], mount["mountPath"]) for mount in container["volumeMounts"]] == [
        ("yt8m", "/data"),
        ("shm", "/dev/shm"),
    ]
    assert worker["volumes"] == [
        {"name": "yt8m", "persistentVolumeClaim": {"claimName": "yt8m"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
    ]
    assert "kfp-launcher" not in json.dumps(worker)


def test_workers_have_no_access_to_the_api(pod):
    assert worker_of(pod)["automountServiceAccountToken"] is False


def test_environment_variables_of_the_user_are_kept(pod):
    main_of(pod)["env"].append({"name": "HTTPS_PROXY", "value": "http://proxy:3128"})
    (container,) = worker_of(pod, environment={"WORKER_ADDRESSES": "a:1,b:1"})["containers"]
    assert container["env"] == [
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        {"name": "WORKER_ADDRESSES", "value": "a:1,b:1"},
    ]


def test_a_worker_runs_the_trainer_with_the_steps_arguments(pod):
    (container,) = worker_of(pod, argv=["--batch_size=8"])["containers"]
    assert container["command"] == ["python3", "-m", "components.workers", "--batch_size=8"]


def test_the_job_starts_every_worker_once(pod):
    spec = job(pod, num_pods=2)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimitPerIndex"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("make", [job, lambda pod: manifests.service(pod, "train-b5c0d7e0-0")])
def test_what_is_created_belongs_to_the_steps_pod_and_to_its_run(pod, make):
    metadata = make(pod)["metadata"]
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Pod", pod["metadata"]["uid"])
    assert metadata["labels"] == {
        "app.kubernetes.io/managed-by": "yt8m-pipeline",
        "pipeline/runid": pod["metadata"]["labels"]["pipeline/runid"],
    }


def test_argo_does_not_take_a_workers_pod_for_its_own(pod):
    labels = job(pod)["spec"]["template"]["metadata"]["labels"]
    assert not any("argoproj" in label for label in labels)


def test_the_headless_service_names_the_pods_of_the_job(pod):
    service = manifests.service(pod, "train-b5c0d7e0-0")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": "train-b5c0d7e0-0"}
    assert worker_of(pod)["subdomain"] == service["metadata"]["name"]


def test_addresses(pod):
    assert manifests.job_name(pod, 0) == "train-b5c0d7e0-0"
    assert manifests.addresses(pod, 0, 3) == [
        "10.244.0.78:2222",
        "train-b5c0d7e0-0-0.train-b5c0d7e0-0.kubeflow.svc:2222",
        "train-b5c0d7e0-0-1.train-b5c0d7e0-0.kubeflow.svc:2222",
    ]


def test_each_attempt_has_addresses_of_its_own(pod):
    addresses = [address for n in range(3) for address in manifests.addresses(pod, n, 3)]
    assert len(set(addresses)) == 9


def test_an_ipv6_address_is_in_brackets(pod):
    pod["status"]["podIP"] = "fd00::1"
    assert manifests.addresses(pod, 1, 2)[0] == "[fd00::1]:2223"


def test_the_queue_of_kueue_is_that_of_the_steps_pod(pod):
    label = "kueue.x-k8s.io/queue-name"
    assert label not in job(pod)["metadata"]["labels"]
    pod["metadata"]["labels"][label] = "video"
    assert job(pod)["metadata"]["labels"][label] == "video"
