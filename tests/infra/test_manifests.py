"""Security settings of the Kubernetes manifests, the workflows and the Terraform configuration."""

import re

import pytest
import yaml

from pipeline.paths import ROOT

MANIFESTS = [
    manifest
    for file in sorted((ROOT / "infra" / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
]
PODS = {
    manifest["metadata"]["name"]: manifest if manifest["kind"] == "Pod" else template
    for manifest in MANIFESTS
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
