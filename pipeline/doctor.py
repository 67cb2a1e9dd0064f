"""Check a run's prerequisites on a cluster, before it starts."""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from components.dates import fill_in
from components.train import parse_accelerator_count
from pipeline.command_line import option
from pipeline.kubeflow.connection import resolve
from pipeline.parameters import with_defaults
from pipeline.prepare import KUBEFLOW, PackageConfig, prepare
from trainer.common import storage
from trainer.common.errors import UserError

COMPUTE = "https://compute.googleapis.com/compute/v1"
SERVICE_USAGE = "https://serviceusage.googleapis.com/v1beta1"


Check = Callable[[], str]


class NotChecked(Exception):
    """A check that is impossible from this machine; the message says why."""


@dataclass(frozen=True, repr=False)
class DoctorConfig(PackageConfig):
    """Check the prerequisites of a run with the same options and parameters; start nothing."""

    kube_namespace: str = option(
        "kubeflow", "Namespace of the steps' pods, if --namespace is empty.", KUBEFLOW
    )
    # For the quota of GPUs, on Kubeflow too.
    project: str = option("", "Google Cloud project. Default: the one set in gcloud.")
    region: str = option("us-central1", "Google Cloud region.")


def doctor(config: DoctorConfig, arguments: list[str]) -> int:
    """Run all checks and print their results; return the exit code, 1 if one failed."""
    code = 0
    for title, check in checks(config, arguments):
        try:
            mark, text = "ok", check()
        except NotChecked as error:
            mark, text = "?", str(error)
        except UserError as error:
            mark, text = "FAIL", str(error)
            code = 1
        print(f"{mark:<5} {title:<13} {text}", flush=True)
    return code


def checks(config: DoctorConfig, arguments: list[str]) -> Iterator[tuple[str, Check]]:
    """Yield (title, check); a check returns its finding, or raises UserError or NotChecked."""
    compiled, values = prepare(config, arguments)
    values = with_defaults(values, compiled.parameters)
    yield "Pipeline", lambda: f"version {compiled.version}; the parameters are valid"
    yield from _kubeflow(config) if config.target == "kubeflow" else _vertex(config)
    for image in compiled.images:
        yield "Image", lambda image=image: _image(config, image)
    for name in ("train_data", "eval_data", "data", "vocabulary"):
        if values.get(name):
            yield name, lambda name=name: _data(_from_here(config, values[name]))
    yield "output_dir", lambda: _output(_from_here(config, values["output_dir"]))
    _, count = _accelerators(values)
    if count and config.target == "kubeflow":
        yield "Nodes", lambda: nodes(values)
        yield "Quota", lambda: _namespace_quota(config, values)
        yield "Google quota", lambda: _google_quota(config, values)
    elif count:
        yield "Quota", lambda: _vertex_quota(config, values)


def _accelerators(values: dict) -> tuple[str, int]:
    """Return the type and the number of the accelerators that training requests."""
    count = parse_accelerator_count(values.get("accelerator_count", "0"))
    return values.get("accelerator_type", ""), count


def _kubeflow(config: DoctorConfig) -> Iterator[tuple[str, Check]]:
    from pipeline.kubeflow import client as kubeflow

    connection = resolve(config)

    def host() -> str:
        with kubeflow.explained(connection):
            answer = kubeflow.connect(connection).healthzs.healthz_service_get_healthz()
        if answer.multi_user and not connection.namespace:
            raise UserError(
                f"{connection.host} is a multi-user Kubeflow and requires --namespace, that of "
                "your profile."
            )
        if connection.namespace and not answer.multi_user:
            raise UserError(f"{connection.host} is a single-user Kubeflow: leave out --namespace.")
        return f"{connection.host} is available"

    def access() -> str:
        with kubeflow.explained(connection):
            experiments = kubeflow.connect(connection).experiments
            listed = experiments.experiment_service_list_experiments
            listed(page_size=1, **kubeflow.in_namespace(connection))
        return "the credentials are accepted"

    yield "Host", host
    yield "Access", access


def _vertex(config: DoctorConfig) -> Iterator[tuple[str, Check]]:
    from pipeline.vertex import client as vertex

    yield "Access", lambda: vertex.access(config)
    yield "pipeline_root", lambda: _output(config.pipeline_root)


def _from_here(config: DoctorConfig, files: str) -> str:
    """Return the gs:// addresses of files that Vertex AI mounts in the steps, below /gcs."""
    return re.sub(r"(^|,)/gcs/", r"\1gs://", files) if config.target == "vertex" else files


def _data(pattern: str) -> str:
    files = fill_in(pattern, datetime.now(UTC))
    _must_be_remote(files)
    found = storage.glob(files)
    with storage.open_read(found[0]) as file:
        file.read(1)
    return f"{files}: {len(found)} file{'s' if len(found) > 1 else ''}"


def _output(folder: str) -> str:
    _must_be_remote(folder)
    trial = storage.join(folder, f".doctor-{uuid.uuid4().hex}")
    storage.write_bytes(storage.join(trial, "empty"), b"")
    storage.delete_tree(trial)
    return f"{folder} is writable"


def _must_be_remote(path: str):
    if "://" not in path:
        raise NotChecked(f"{path} is a path in the pods; check that it is on a mounted volume")


def _image(config: DoctorConfig, name: str) -> str:
    try:
        return _image_in_registry(name)
    except (UserError, NotChecked) as error:
        if config.target != "kubeflow":
            raise
        return _image_on_nodes(name, error)


def _image_in_registry(name: str) -> str:
    from pipeline.local import engine

    engine.check_name(name)
    try:
        client = engine.connect()
    except UserError:
        raise NotChecked(f"{name}: no Docker engine is running to query the registry") from None
    engine.check_pullable(client, name)
    return f"{name} can be pulled with this machine's credentials"


def _image_on_nodes(name: str, error: Exception) -> str:
    """Check whether the nodes have an image, so that Kubernetes need not pull it.

    Args:
        name: Name of the image.
        error: Why it cannot be pulled, or why that could not be checked. Raised if no node has the
            image, or if its tag is `latest`, which Kubernetes always pulls.
    """
    try:
        with _kubernetes() as client:
            nodes = client.CoreV1Api().list_node(_request_timeout=20).items
    except NotChecked:
        raise error from None
    full = _full_name(name)
    count = sum(
        any(full in (image.names or []) for image in node.status.images or []) for node in nodes
    )
    if not count or full.endswith(":latest"):
        raise error
    if count < len(nodes):
        raise NotChecked(f"{name} is on {count} of {len(nodes)} nodes; on others: {error}")
    return f"{name} is on {'the node' if len(nodes) == 1 else f'all {len(nodes)} nodes'}"


def _full_name(image: str) -> str:
    """Return an image's name as a node lists it: with a registry, and a tag or digest."""
    host, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not re.search(r"[.:]|^localhost$", host):
        image = f"docker.io/{image}"
    return image if re.search(r"[:@][^/]*$", image) else f"{image}:latest"


def nodes(values: dict) -> str:
    """Check whether a node has the labels of node_selector and enough accelerators.

    Args:
        values: Values of all parameters. Batch prediction has none of these.
    """
    kind, count = _accelerators(values)
    labels = values.get("node_selector", {})
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    with _kubernetes() as client:
        nodes = client.CoreV1Api().list_node(label_selector=selector, _request_timeout=20).items
    if not count:
        return f"{len(nodes)} with the labels of the step; they may lack free CPU or memory"
    most = max((int(node.status.allocatable.get(kind, 0)) for node in nodes), default=0)
    if most >= count:
        return f"a node has {most} {kind}"
    wanted = f"{count} {kind}" + (f" and the labels {selector}" if selector else "")
    raise NotChecked(f"no node has {wanted} now; an autoscaled node pool may add one")


def _namespace_quota(config: DoctorConfig, values: dict) -> str:
    """Check whether the namespace's quota allows that many more accelerators."""
    kind, count = _accelerators(values)
    namespace = config.namespace or config.kube_namespace
    with _kubernetes() as client:
        api = client.CoreV1Api()
        quotas = api.list_namespaced_resource_quota(namespace, _request_timeout=20).items
    for quota in quotas:
        for name in (f"requests.{kind}", f"limits.{kind}"):
            limit = (quota.status.hard or {}).get(name)
            used = (quota.status.used or {}).get(name, 0)
            if limit is not None and int(limit) - int(used) < count:
                raise UserError(
                    f"the quota {quota.metadata.name} of namespace {namespace} is {limit} {kind}, "
                    f"of which {used} are used; the run needs {count}."
                )
    return f"namespace {namespace} may use {count} more {kind}"


@contextlib.contextmanager
def _kubernetes() -> Iterator:
    """Yield the Kubernetes client, configured for kubectl's current cluster."""
    import kubernetes
    from urllib3.exceptions import HTTPError

    try:
        kubernetes.config.load_kube_config()
        yield kubernetes.client
    except kubernetes.config.ConfigException:
        raise NotChecked("kubectl has no current cluster") from None
    except (kubernetes.client.ApiException, HTTPError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise NotChecked(f"Kubernetes cannot be queried: {reason}") from None


def _google_quota(config: DoctorConfig, values: dict) -> str:
    """Check whether the project's quota in the region suffices for the accelerators."""
    metric = quota_metric(values["node_selector"])
    if not metric:
        raise NotChecked("node_selector selects no node pool of GKE")
    if not config.project:
        raise NotChecked(f"give --project and --region to check {metric}")
    path = f"projects/{config.project}/regions/{config.region}"
    with _google_cloud() as (get, _):
        quotas = get(f"{COMPUTE}/{path}")["quotas"]
    return room(quotas, metric, _accelerators(values)[1], path)


@contextlib.contextmanager
def _google_cloud() -> Iterator[tuple[Callable[[str], dict], str | None]]:
    """Yield a function that sends a GET request to Google Cloud, and the default project."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from requests.exceptions import RequestException

    def get(url: str) -> dict:
        answer = AuthorizedSession(credentials).get(url, timeout=20)
        answer.raise_for_status()
        return answer.json()

    try:
        scope = "https://www.googleapis.com/auth/cloud-platform"
        credentials, project = google.auth.default([scope])
        yield get, project
    except (GoogleAuthError, RequestException) as error:
        raise NotChecked(f"Google Cloud cannot be queried: {error}") from None


def quota_metric(node_selector: dict[str, str]) -> str:
    """Return Google Cloud's name of the quota of the GPUs in node_selector; "" without any."""
    name = node_selector.get("cloud.google.com/gke-accelerator", "").upper().replace("-", "_")
    spot = "PREEMPTIBLE_" if node_selector.get("cloud.google.com/gke-spot") == "true" else ""
    return f"{spot}{name.replace('_TESLA_', '_')}_GPUS" if name else ""


def room(quotas: list[dict], metric: str, count: int, where: str) -> str:
    """Return how much of a quota is left; raise UserError if that is less than `count`."""
    quota = next((quota for quota in quotas if quota["metric"] == metric), None)
    if quota is None:
        raise NotChecked(f"{where} has no quota named {metric}")
    left = int(quota["limit"] - quota["usage"])
    text = f"{left} of {int(quota['limit'])} {metric} are left in {where}"
    if left < count:
        raise UserError(f"{text}; the run needs {count}. Request an increase from Google Cloud.")
    return text


def _vertex_quota(config: DoctorConfig, values: dict) -> str:
    """Check Vertex AI's quota of accelerators. The API does not report how many are in use."""
    kind, count = _accelerators(values)
    metric = f"aiplatform.googleapis.com/{vertex_quota_metric(kind)}"
    with _google_cloud() as (get, project):
        service = f"projects/{config.project or project}/services/aiplatform.googleapis.com"
        answer = get(f"{SERVICE_USAGE}/{service}/consumerQuotaMetrics/{quote(metric, safe='')}")
    limit = limit_in(config.region, answer)
    if limit is None:
        raise UserError(f"Vertex AI has no {kind} in {config.region}.")
    if limit < count:
        raise UserError(
            f"The quota {metric} is {limit} in {config.region}; the run needs {count}. Request an "
            "increase from Google Cloud."
        )
    return f"{metric} is {limit} in {config.region}, of which some may be in use"


def vertex_quota_metric(accelerator_type: str) -> str:
    """Return Vertex AI's name of the quota of an accelerator for training.

    It contains the memory size only for GPUs that exist in several sizes.
    """
    name = accelerator_type.lower().replace("_tesla_", "_")
    if "_a100_" not in name:
        name = re.sub(r"_\d+gb$", "", name)
    return f"custom_model_training_{name}_gpus"


def limit_in(region: str, metric: dict) -> float | None:
    """Return a quota's limit in a region, or None if the region does not offer the resource.

    Args:
        region: Region, e.g. "us-central1".
        metric: A consumerQuotaMetric of the Service Usage API.
    """
    limits = []
    for limit in metric.get("consumerQuotaLimits", []):
        if region not in limit.get("supportedLocations", [region]):
            return None
        # Sorted from general to specific; the last one that matches applies.
        matching = [
            bucket
            for bucket in limit.get("quotaBuckets", [])
            if bucket.get("dimensions", {}).get("region", region) == region
        ]
        value = int(matching[-1].get("effectiveLimit", 0)) if matching else 0  # JSON omits 0
        limits.append(value if value >= 0 else float("inf"))
    return min(limits, default=0)
