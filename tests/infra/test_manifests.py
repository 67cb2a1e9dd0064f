"""Security settings of the Kubernetes manifests, the workflows and the Terraform configuration."""

import json
import re

import pytest
import yaml

from pipeline.paths import ROOT

MANIFESTS = [
    manifest
    for file in sorted((ROOT / "infra" / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
]
JOBS = [
    {"metadata": m["metadata"], "kind": "Job", "spec": m["spec"]["jobTemplate"]["spec"]}
    for m in MANIFESTS
    if m["kind"] == "CronJob"
]
PODS = {
    manifest["metadata"]["name"]: manifest if manifest["kind"] == "Pod" else template
    for manifest in [*MANIFESTS, *JOBS]
    if (template := manifest.get("spec", {}).get("template")) or manifest["kind"] == "Pod"
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# Images whose entry point writes to the image's own folders.
WRITES_TO_ROOT = {"flink:1.19-java17"}


def named(kind: str, name: str) -> dict:
    return next(
        manifest
        for manifest in MANIFESTS
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name)
    )


@pytest.mark.parametrize("name", PODS)
def test_pods_meet_the_restricted_pod_security_standard(name):
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is (container["image"] not in WRITES_TO_ROOT)
        assert "memory" in container["resources"]["limits"]
    assert not any("hostPath" in volume for volume in spec.get("volumes", []))


@pytest.mark.parametrize("name", ["yt8m-serving", "yt8m-tensorflow-serving"])
def test_clients_reach_every_port_of_a_model_server(name):
    policy = named("NetworkPolicy", "yt8m-serving")["spec"]
    template = PODS[name]
    labels = policy["podSelector"]["matchLabels"].items()
    assert labels <= template["metadata"]["labels"].items()
    (rule,) = policy["ingress"]
    ports = {port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert ports <= {port["port"] for port in rule["ports"]}


def test_only_pods_of_runs_reach_flinks_rest_api():
    policies = [named("NetworkPolicy", "flink"), named("NetworkPolicy", "flink-rest")]
    for name in ("flink-jobmanager", "flink-taskmanager"):
        labels = PODS[name]["metadata"]["labels"]
        assert policies[0]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policies[1]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8081}]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchExpressions"] == [
        {"key": "workflows.argoproj.io/workflow", "operator": "Exists"}
    ]


def test_accounts_of_steps_cannot_create_pods_or_read_all_secrets():
    for rule in named("Role", "yt8m-steps")["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"pods", "jobs", "deployments"} & set(rule["resources"])
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"] == ["mlpipeline-minio-artifact"]


def test_who_may_create_jobs_is_held_to_the_policy():
    allowed = {
        (resource, verb)
        for rule in named("Role", "yt8m-workers")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        ("pods", "get"),
        ("pods", "list"),
        ("jobs", "create"),
        ("jobs", "delete"),
        ("services", "create"),
        ("services", "list"),
        ("services", "delete"),
    }
    policy = named("ValidatingAdmissionPolicy", "yt8m-workers")["spec"]
    (condition,) = policy["matchConditions"]
    for account in named("RoleBinding", "yt8m-workers")["subjects"]:
        assert f":{account['name']}'" in condition["expression"]
    assert policy["failurePolicy"] == "Fail"
    binding = named("ValidatingAdmissionPolicyBinding", "yt8m-workers")["spec"]
    assert binding == {"policyName": "yt8m-workers", "validationActions": ["Deny"]}


def test_terraform_binds_the_accounts_of_the_manifests():
    terraform = (ROOT / "infra/gke/accounts.tf").read_text()
    assert "[${var.namespace}/yt8m-${each.key}]" in terraform
    for account in ("training", "publishing"):
        assert named("ServiceAccount", f"yt8m-{account}")
        assert re.search(rf"^    {account} = {{$", terraform, re.MULTILINE)


def test_the_training_account_cannot_write_published_models():
    terraform = (ROOT / "infra/gke/accounts.tf").read_text()
    folders = re.search(r"    training = {.*?folders += \[(.*?)\]", terraform, re.DOTALL)[1]
    assert re.findall(r'"(.*?)"', folders) == [
        "${local.output}/train/",
        "${local.output}/runs/",
        "${local.output}/data/",
        "root/",
        "tmp/",
    ]


def test_the_documentation_grants_the_roles_that_terraform_grants():
    def roles(text: str) -> set[str]:
        return set(re.findall(r"roles/[A-Za-z.]+\w", text))

    terraform = (ROOT / "infra/gke/accounts.tf").read_text()
    only_the_cluster = {
        "roles/container.defaultNodeServiceAccount",
        "roles/iam.workloadIdentityUser",
    }
    only_dataflow = {
        "roles/dataflow.worker",
        "roles/dataflow.developer",
        "roles/iam.serviceAccountUser",
    }
    documented = roles((ROOT / "docs/vertex.md").read_text()) - {"roles/iam.serviceAccountUser"}
    assert documented == roles(terraform) - only_the_cluster - only_dataflow


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_pin_actions_and_limit_permissions(file):
    text = file.read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    workflow = yaml.safe_load(text)
    assert set(workflow["permissions"]) <= {"contents", "id-token"}
    assert workflow["permissions"]["contents"] == "read"
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", ["yt8m", "yt8m-tensorflow"])
def test_kserve_knows_every_field_of_the_inference_services(name, monkeypatch):
    """KServe's client leaves out fields that it does not know."""
    import kserve
    import kubernetes
    from kserve.api_client import ApiClient

    for model in dir(kubernetes.client.models):  # the types of Kubernetes in those of KServe
        if model.startswith("V1") and not hasattr(kserve.models, model):
            value = getattr(kubernetes.client.models, model)
            monkeypatch.setattr(kserve.models, model, value, raising=False)
    manifest = named("InferenceService", name)

    class Response:
        data = json.dumps(manifest)

    client = ApiClient()
    parsed = client.deserialize(Response, kserve.V1beta1InferenceService)
    known = client.sanitize_for_serialization(parsed)
    known["spec"]["predictor"].get("model", {}).pop("name", None)  # which KServe fills in
    assert known == manifest


def test_drift_is_checked_on_what_the_server_logs():
    (server,) = PODS["yt8m-serving"]["spec"]["containers"]
    (folder,) = [a.partition("=")[2] for a in server["args"] if a.startswith("--log_dir=")]
    (job,) = [m for m in MANIFESTS if m["kind"] == "CronJob"]
    (check,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert f'--input serving="{folder}/$day/*.tfrecord"' in check["args"][0]
    assert "--fail_on=drift" in check["args"][0]
