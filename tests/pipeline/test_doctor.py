import functools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import quote, unquote

import pytest
from google.auth.credentials import AnonymousCredentials

from pipeline import doctor
from pipeline.__main__ import main
from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.local import engine
from pipeline.paths import VERSION
from pipeline.vertex import client as vertex
from tests.pipeline.vertex_server import VertexServer
from trainer.common import storage
from trainer.common.errors import UserError

REGISTRY = "registry.test"


@pytest.fixture
def registry(monkeypatch):
    """A Docker engine whose registries have all images."""
    monkeypatch.setattr(engine, "connect", lambda: None)
    monkeypatch.setattr(engine, "check_pullable", lambda *_: None)


@pytest.fixture(scope="module")
def compiled_for(tmp_path_factory):
    """compiled_for(profile): target -> compiled pipeline, with images in the registry."""

    @functools.cache
    def compiled_for(profile: str):
        folder = str(tmp_path_factory.mktemp(profile))
        return compile_pipeline(
            CompileConfig(folder, profile),
            {"data": f"{REGISTRY}/yt8m-data:1", "trainer": f"{REGISTRY}/yt8m-trainer@sha256:0"},
        )

    return compiled_for


@pytest.fixture
def run(server, registry, compiled_for, capsys):
    """Run the command on images of the registry; return exit code and lines."""
    pipeline = compiled_for("gke-a100-spot")["kubeflow"]

    def run(*words):
        flags = [f"--host={server.url}", f"--pipeline={pipeline}"]
        with pytest.raises(SystemExit) as exit:
            main(["doctor", *flags, *words])
        return exit.value.code, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def parameters(gcs_bucket):
    for name in ("train0", "train1", "eval0"):
        storage.write_bytes(f"{gcs_bucket}/{name}", b"x")
    return [
        f"train_data={gcs_bucket}/train*",
        f"eval_data={gcs_bucket}/eval*",
        f"output_dir={gcs_bucket}/out",
    ]


def test_every_check_passes(run, parameters, monkeypatch):
    where = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(where, "/nowhere")
    code, lines = run(*parameters)
    found = {line[6:18].strip(): line[:5].strip() for line in lines}
    assert code == 0, lines
    assert found == {
        "Pipeline": "ok",
        "Host": "ok",
        "Access": "ok",
        "Image": "ok",
        "train_data": "ok",
        "eval_data": "ok",
        "output_dir": "ok",
        "Nodes": "?",
        "Quota": "?",
        "Google quota": "?",
    }
    assert any(line.endswith("train*: 2 files") for line in lines)


def test_images_are_not_checked_without_a_docker_engine(run, parameters, monkeypatch):
    def no_engine():
        raise UserError("No Docker engine answers.")

    monkeypatch.setattr(engine, "connect", no_engine)
    _, lines = run(*parameters)
    images = [line for line in lines if " Image " in line]
    assert len(images) == 2
    assert all(line.startswith("?") and "no Docker engine is running" in line for line in images)


def test_failed_checks_are_all_reported(run, parameters, server):
    server.token = "secret"
    code, lines = run(*parameters, "eval_data=gs://no-such-bucket/eval*", "vocabulary=/data/v.csv")
    failed = {line[6:18].strip(): line for line in lines if line.startswith("FAIL")}
    assert code == 1
    assert set(failed) == {"Host", "Access", "eval_data"}
    assert "give a token" in failed["Access"]
    (vocabulary,) = [line for line in lines if "vocabulary" in line]
    assert vocabulary.startswith("?     vocabulary    /data/v.csv is a path in the pods")


def test_namespace_must_match_the_kind_of_server(run, parameters):
    _, lines = run(*parameters, "--namespace=team-a")
    (host,) = [line for line in lines if " Host " in line]
    assert host.startswith("FAIL")
    assert host.endswith("is a single-user Kubeflow: leave out --namespace.")


QUOTAS = [{"metric": "PREEMPTIBLE_NVIDIA_A100_GPUS", "limit": 8.0, "usage": 7.0}]


def test_what_is_left_of_a_quota_must_suffice():
    metric = QUOTAS[0]["metric"]
    assert doctor.room(QUOTAS, metric, 1, "here") == f"1 of 8 {metric} are left in here"
    with pytest.raises(UserError, match="the run needs 2"):
        doctor.room(QUOTAS, metric, 2, "here")
    with pytest.raises(doctor.NotChecked):
        doctor.room(QUOTAS, "NVIDIA_L4_GPUS", 1, "here")


@pytest.mark.parametrize(
    "accelerator, spot, metric",
    [
        ("nvidia-l4", "false", "NVIDIA_L4_GPUS"),
        ("nvidia-tesla-a100", "true", "PREEMPTIBLE_NVIDIA_A100_GPUS"),
        ("nvidia-a100-80gb", "false", "NVIDIA_A100_80GB_GPUS"),
    ],
)
def test_the_name_of_a_quota(accelerator, spot, metric):
    labels = {"gke-accelerator": accelerator, "gke-spot": spot}
    labels = {f"cloud.google.com/{name}": value for name, value in labels.items()}
    assert doctor.quota_metric(labels) == metric


class Cloud(BaseHTTPRequestHandler):
    """The APIs of a Kubernetes cluster and of Google Cloud, of which each path has one answer."""

    answers: ClassVar[dict] = {}
    asked: ClassVar[list] = []

    def do_GET(self):
        self.asked.append(unquote(self.path))
        answer = self.answers.get(self.path.partition("?")[0])
        content = json.dumps(answer or {"message": "no such thing"}).encode()
        self.send_response(200 if answer else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cloud)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    where = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(where, str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(doctor, "COMPUTE", url)
    monkeypatch.setattr(doctor, "SERVICE_USAGE", url)
    monkeypatch.setattr("google.auth.default", lambda *_: (AnonymousCredentials(), "p"))
    monkeypatch.setattr(Cloud, "asked", [])
    monkeypatch.setattr(Cloud, "answers", {})
    yield Cloud
    server.shutdown()
    server.server_close()


def node(gpus: str) -> dict:
    return {"items": [{"status": {"allocatable": {"cpu": "11", "nvidia.com/gpu": gpus}}}]}


def quota(hard: str, used: str) -> dict:
    name = "requests.nvidia.com/gpu"
    status = {"hard": {name: hard}, "used": {name: used}}
    return {"items": [{"metadata": {"name": "gpus"}, "status": status}]}


@pytest.mark.parametrize(
    "gpus, hard, limit, marks",
    [
        ("1", "8", 8.0, {"Nodes": "ok", "Quota": "ok", "Google quota": "ok"}),
        ("0", "7", 7.0, {"Nodes": "?", "Quota": "FAIL", "Google quota": "FAIL"}),
    ],
)
def test_nodes_and_quotas(run, parameters, cloud, gpus, hard, limit, marks):
    metric = {"metric": "PREEMPTIBLE_NVIDIA_A100_GPUS", "limit": limit, "usage": 7.0}
    cloud.answers = {
        "/api/v1/nodes": node(gpus),
        "/api/v1/namespaces/kubeflow/resourcequotas": quota(hard, "7"),
        "/projects/p/regions/europe-west4": {"quotas": [metric]},
    }
    _, lines = run(*parameters, "--project=p", "--region=europe-west4")
    assert {line[6:18].strip(): line[:5].strip() for line in lines[-3:]} == marks
    nodes, *_ = cloud.asked
    assert "labelSelector=cloud.google.com/gke-accelerator=nvidia-tesla-a100,cloud" in nodes


@pytest.mark.parametrize("values", [{}, {"accelerator_count": "0", "node_selector": {"a": "b"}}])
def test_nodes_for_a_step_without_accelerators(cloud, values):
    cloud.answers = {"/api/v1/nodes": node("0")}
    found = "1 with the labels of the step; they may lack free CPU or memory"
    assert doctor.nodes(values) == found


def holding(*names: str) -> dict:
    return {"status": {"allocatable": {}, "images": [{"names": [name]} for name in names]}}


LOCAL = {"data": "yt8m-data:1", "trainer": "me/yt8m-trainer:1"}
ON_NODE = ("docker.io/library/yt8m-data:1", "docker.io/me/yt8m-trainer:1")


@pytest.mark.parametrize(
    "images, nodes, mark, said",
    [
        (LOCAL, [holding(*ON_NODE)], "ok", "yt8m-data:1 is on the node"),
        (LOCAL, [holding(*ON_NODE)] * 2, "ok", "yt8m-data:1 is on all 2 nodes"),
        (LOCAL, [holding(*ON_NODE), holding()], "?", "is on 1 of 2 nodes; on others: yt8m-data:1"),
        (LOCAL, [{"status": {"images": [{"sizeBytes": 1}]}}], "FAIL", "names no registry"),
        (
            {"data": "yt8m-data:latest", "trainer": "yt8m-trainer"},
            [
                holding(
                    "docker.io/library/yt8m-data:latest", "docker.io/library/yt8m-trainer:latest"
                )
            ],
            "FAIL",
            "names no registry",
        ),
    ],
)
def test_images_that_were_loaded_onto_the_nodes(
    server, cloud, compiled, parameters, tmp_path, capsys, images, nodes, mark, said
):
    cloud.answers = {"/api/v1/nodes": {"items": nodes}}
    pipeline = tmp_path / "pipeline.yaml"
    text = compiled["kubeflow"].read_text()
    for image, name in images.items():
        text = text.replace(f"image: yt8m-{image}:{VERSION}", f"image: {name}")
    pipeline.write_text(text)
    with pytest.raises(SystemExit):
        main(["doctor", f"--host={server.url}", f"--pipeline={pipeline}", *parameters])
    lines = [line for line in capsys.readouterr().out.splitlines() if line[6:11] == "Image"]
    assert [line[:5].strip() for line in lines] == [mark, mark]
    assert any(said in line for line in lines)


def test_cluster_without_permission_is_not_a_failure(run, parameters, cloud):
    code, lines = run(*parameters, "--project=p")
    assert code == 0
    assert [line[:1] for line in lines[-3:]] == ["?", "?", "?"]
    assert "Kubernetes cannot be queried: Forbidden" in lines[-2]


def test_multi_user_server_requires_a_namespace(run, parameters, server):
    server.multi_user = True
    _, lines = run(*parameters)
    assert any("is a multi-user Kubeflow and requires --namespace" in line for line in lines)
    _, lines = run(*parameters, "--namespace=team-a")
    assert any(line.startswith("ok    Host") for line in lines)


# Vertex AI.


@pytest.fixture
def run_on_vertex(registry, compiled_for, gcs_bucket, cloud, monkeypatch, capsys):
    """Run the command with Vertex AI as the target; return exit code and lines."""
    pipeline = compiled_for("gke-l4")["vertex"]
    flags = ["--target=vertex", "--region=europe-west4", f"--pipeline_root={gcs_bucket}/root"]

    def run(*words):
        with pytest.raises(SystemExit) as exit:
            main(["doctor", *flags, f"--pipeline={pipeline}", *words])
        return exit.value.code, capsys.readouterr().out.splitlines()

    with VertexServer() as server:
        how = {"project": "p", "credentials": AnonymousCredentials(), "api_transport": "rest"}
        monkeypatch.setattr(vertex, "INIT", how | {"api_endpoint": server.url})
        yield run


L4 = "aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus"
L4_PATH = (
    f"/projects/p/services/aiplatform.googleapis.com/consumerQuotaMetrics/{quote(L4, safe='')}"
)


def limits(**by_region) -> dict:
    """A metric as Service Usage has it: 0, which its JSON leaves out, where nothing else is."""
    buckets = [{"defaultLimit": "0"}]
    for region, limit in by_region.items():
        region = region.replace("_", "-")
        buckets.append({"effectiveLimit": str(limit), "dimensions": {"region": region}})
    locations = ["europe-west4", "us-central1", "us-east4"]
    limit = {"unit": "1/{project}/{region}", "supportedLocations": locations}
    return {"metric": L4, "consumerQuotaLimits": [limit | {"quotaBuckets": buckets}]}


def test_every_check_passes_on_vertex(run_on_vertex, parameters, cloud):
    cloud.answers = {L4_PATH: limits(us_central1=1, europe_west4=2)}
    code, lines = run_on_vertex(*(p.replace("gs://", "/gcs/") for p in parameters))
    assert code == 0
    assert {line[:2] for line in lines} == {"ok"}
    assert f"{L4} is 2 in europe-west4" in lines[-1]
    assert [line[6:19].strip() for line in lines[1:3]] == ["Access", "pipeline_root"]


@pytest.mark.parametrize(
    "count, region, said",
    [
        (3, "europe-west4", "is 2 in europe-west4; the run needs 3"),
        (1, "us-east4", "is 0 in us-east4; the run needs 1"),
        (1, "asia-east1", "Vertex AI has no NVIDIA_L4 in asia-east1"),
    ],
)
def test_too_small_a_quota_on_vertex(run_on_vertex, parameters, cloud, count, region, said):
    cloud.answers = {L4_PATH: limits(europe_west4=2)}
    code, lines = run_on_vertex(*parameters, f"accelerator_count={count}", f"--region={region}")
    assert code == 1
    assert lines[-1].startswith("FAIL  Quota")
    assert said in lines[-1]


def test_unreadable_quota_on_vertex_is_not_a_failure(run_on_vertex, parameters):
    code, lines = run_on_vertex(*parameters)
    assert code == 0
    assert lines[-1].startswith("?     Quota         Google Cloud cannot be queried: 403")


def test_quota_without_a_limit_on_vertex():
    assert doctor.limit_in("us-east4", limits(us_east4=-1)) == float("inf")


@pytest.mark.parametrize(
    "accelerator, metric",
    [
        ("NVIDIA_L4", "custom_model_training_nvidia_l4_gpus"),
        ("NVIDIA_TESLA_A100", "custom_model_training_nvidia_a100_gpus"),
        ("NVIDIA_A100_80GB", "custom_model_training_nvidia_a100_80gb_gpus"),
        ("NVIDIA_H100_80GB", "custom_model_training_nvidia_h100_gpus"),
    ],
)
def test_the_name_of_a_quota_on_vertex(accelerator, metric):
    assert doctor.vertex_quota_metric(accelerator) == metric
