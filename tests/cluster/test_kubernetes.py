"""What needs a real Kubernetes and no Kubeflow: restricted pods, the shipped manifests, RBAC."""

import kubernetes
import pytest

from tests.cluster.conftest import IMAGES, MANIFESTS, manifests, wait_for

pytestmark = pytest.mark.slow

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def accounts(namespace):
    """The shipped service accounts, in the namespace."""
    client = kubernetes.client.ApiClient()
    for manifest in manifests("accounts.yaml"):
        kubernetes.utils.create_from_dict(client, manifest, namespace=namespace)


@pytest.mark.parametrize("user", [None, 123456])
def test_the_images_run_restricted_as_any_user_with_a_read_only_root(core, namespace, user):
    tmp = {"securityContext": RESTRICTED, "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    generate = ["python3", "-m", "components.generate_data", "--directory=/tmp/set"]
    generate += ["--num_videos=60", "--num_classes=3"]
    train = ["--train_data_pattern=/tmp/set/train*", "--train_dir=/tmp/model", "--num_classes=3"]
    train += ["--feature_names=mean_rgb,mean_audio", "--feature_sizes=1024,128", "--num_epochs=1"]
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": security | ({"runAsUser": user} if user else {}),
        "initContainers": [
            {"name": "generate", "image": IMAGES["data"], "command": generate, **tmp}
        ],
        "containers": [{"name": "train", "image": IMAGES["trainer"], "args": train, **tmp}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    name = f"train-{user or 'default'}"
    core.create_namespaced_pod(namespace, {"metadata": {"name": name}, "spec": spec})

    def phase() -> str:
        return core.read_namespaced_pod(name, namespace).status.phase

    wait_for(lambda: phase() in ("Succeeded", "Failed"), 600)
    log = core.read_namespaced_pod_log(name, namespace, container="train")
    assert phase() == "Succeeded", log
    assert "step" in log


def test_the_shipped_volume_is_bound_and_writable_by_its_pod(core, namespace):
    claim, pod = manifests("volume.yaml")
    claim["spec"]["resources"]["requests"]["storage"] = "1Mi"
    pod["spec"]["containers"][0]["image"] = IMAGES["data"]
    pod["spec"]["containers"][0]["command"] = ["sh", "-c", "date > /data/file && sleep 3600"]
    pod["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["cat", "/data/file"]}}
    core.create_namespaced_persistent_volume_claim(namespace, claim)
    core.create_namespaced_pod(namespace, pod)

    def ready() -> bool:
        status = core.read_namespaced_pod("yt8m-files", namespace).status
        return any(c.type == "Ready" and c.status == "True" for c in status.conditions or [])

    wait_for(ready)
    assert core.read_namespaced_persistent_volume_claim("yt8m", namespace).status.phase == "Bound"


# kserve.yaml needs KServe's resource types; tests/infra parses it with KServe's client.
@pytest.mark.parametrize(
    "file", sorted(path.name for path in MANIFESTS.glob("*.yaml") if path.name != "kserve.yaml")
)
def test_each_shipped_manifest_is_accepted_and_its_pods_meet_the_standard(
    core, namespace, accounts, file
):
    client = kubernetes.client.ApiClient()
    for manifest in manifests(file):
        manifest["metadata"]["name"] += "-again"  # other tests create some under their own names
        kubernetes.utils.create_from_dict(client, manifest, namespace=namespace, dry_run="All")
        template = manifest.get("spec", {}).get("template")
        if template:  # a Deployment is accepted whatever its pods are; they are refused later
            pod = {"metadata": {"generateName": "pod-"}, "spec": template["spec"]}
            core.create_namespaced_pod(namespace, pod, dry_run="All")


@pytest.mark.parametrize("account", ["yt8m-training", "yt8m-publishing"])
def test_the_steps_accounts_may_do_what_a_step_does_and_no_more(namespace, accounts, account):
    def may(verb: str, resource: str, group: str = "", name: str = "") -> bool:
        attributes = {"namespace": namespace, "verb": verb, "resource": resource}
        attributes |= {"group": group, "name": name}
        user = f"system:serviceaccount:{namespace}:{account}"
        spec = {"user": user, "resourceAttributes": attributes}
        review = kubernetes.client.AuthorizationV1Api().create_subject_access_review({"spec": spec})
        return review.status.allowed

    assert may("create", "workflowtaskresults", "argoproj.io")
    assert may("get", "configmaps", name="kfp-launcher")
    assert may("get", "secrets", name="mlpipeline-minio-artifact")
    assert not may("create", "pods")
    assert not may("list", "secrets")
    assert not may("get", "secrets", name="another")
    assert not may("create", "workflows", "argoproj.io")
