"""Find what would break a run on a cluster, before it starts."""

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
from pipeline.prepare import KUBEFLOW, PackageConfig, complete, prepare
from trainer.common import storage
from trainer.common.errors import UserError

COMPUTE = "https://compute.googleapis.com/compute/v1"
SERVICE_USAGE = "https://serviceusage.googleapis.com/v1beta1"


class NotChecked(Exception):
    """It could not be found out from here; the message says why."""


@dataclass(frozen=True, repr=False)
class DoctorConfig(PackageConfig):
    """Check what a run with the same options and parameters needs, without running it."""

    kube_namespace: str = option(
        "kubeflow", "Namespace of the steps' pods, if --namespace is empty.", KUBEFLOW
    )
    # On Kubeflow, they say whose quota of GPUs to check.
    project: str = option("", "Google Cloud project. Default: the one set in gcloud.")
    region: str = option("us-central1", "Google Cloud region.")


def doctor(config: DoctorConfig, arguments: list[str]) -> int:
    """Run the checks; return the exit code, 1 if something would break a run."""
    return 0 if examine(checks(config, arguments)) else 1


def examine(checks: Iterator[tuple[str, Callable[[], str]]]) -> bool:
    """Runs each check and says what it found; returns whether none failed."""
    healthy = True
    for title, check in checks:
        try:
            mark, text = "ok", check()
        except NotChecked as error:
            mark, text = "?", str(error)
        except UserError as error:
            mark, text = "FAIL", str(error)
            healthy = False
        print(f"{mark:<5} {title:<13} {text}", flush=True)
    return healthy


def checks(config: DoctorConfig, words: list[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Title and check, one after the other; a check returns words or raises."""
    compiled, values = prepare(config, words)
    values = complete(compiled, values)
    yield "Pipeline", lambda: f"version {compiled.version}; its parameters fit it"
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
    """Type and number of the accelerators that training requests."""
    count = parse_accelerator_count(values.get("accelerator_count", "0"))
    return values.get("accelerator_type", ""), count


def _kubeflow(config: DoctorConfig) -> Iterator[tuple[str, Callable[[], str]]]:
    from pipeline.kubeflow import client as kubeflow

    connection = resolve(config)

    def host() -> str:
        with kubeflow.explained(connection):
            answer = kubeflow.connect(connection).healthzs.healthz_service_get_healthz()
        if answer.multi_user and not connection.namespace:
            raise UserError(
                f"{connection.host} has several users: give --namespace, your profile's."
            )
        if connection.namespace and not answer.multi_user:
            raise UserError(f"{connection.host} has but one user: leave out --namespace.")
        return f"{connection.host} answers"

    def access() -> str:
        with kubeflow.explained(connection):
            experiments = kubeflow.connect(connection).experiments
            listed = experiments.experiment_service_list_experiments
            listed(page_size=1, **kubeflow.in_namespace(connection))
        return "it lets you in"

    yield "Host", host
    yield "Access", access


def _vertex(config: DoctorConfig) -> Iterator[tuple[str, Callable[[], str]]]:
    from pipeline.vertex import client as vertex

    yield "Access", lambda: vertex.access(config)
    yield "pipeline_root", lambda: _output(config.pipeline_root)


def _from_here(config: DoctorConfig, files: str) -> str:
    """What the steps see as these files: Vertex AI mounts each bucket below /gcs."""
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
    return f"{folder} can be written to"


def _must_be_remote(path: str):
    if "://" not in path:
        raise NotChecked(f"{path} is within the cluster; look there that it is on a volume")


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
        raise NotChecked(f"{name}: no Docker engine, which asks the registry, answers") from None
    engine.check_pullable(client, name)
    return f"{name} can be pulled with this machine's credentials"


def _image_on_nodes(name: str, error: Exception) -> str:
    """Whether the nodes hold an image that cannot be pulled: Kubernetes then does not pull it.

    Raises:
        Exception: `error`, if no node is known to hold it, or if it is pulled all the same because
            its tag is `latest`.
    """
    try:
        with _kubernetes() as client:
            nodes = client.CoreV1Api().list_node(_request_timeout=20).items
    except NotChecked:
        raise error from None
    full = _full_name(name)
    holders = [
        node
        for node in nodes
        if any(full in (image.names or []) for image in node.status.images or [])
    ]
    if not holders or full.endswith(":latest"):
        raise error
    if len(holders) < len(nodes):
        raise NotChecked(f"{name} is on {len(holders)} of {len(nodes)} nodes; on others: {error}")
    return f"{name} is on {'the node' if len(nodes) == 1 else f'all {len(nodes)} nodes'}"


def _full_name(image: str) -> str:
    """The image's name as a node lists it, with a registry and a tag or digest."""
    host, slash, _ = image.partition("/")
    if not slash:
        image = f"docker.io/library/{image}"
    elif not re.search(r"[.:]|^localhost$", host):
        image = f"docker.io/{image}"
    return image if re.search(r"[:@][^/]*$", image) else f"{image}:latest"


def nodes(values: dict) -> str:
    """Whether a node fits, as it says itself: labels, and accelerators of that type."""
    kind, count = _accelerators(values)
    selector = ",".join(f"{key}={value}" for key, value in values["node_selector"].items())
    with _kubernetes() as client:
        nodes = client.CoreV1Api().list_node(label_selector=selector, _request_timeout=20).items
    most = max((int(node.status.allocatable.get(kind, 0)) for node in nodes), default=0)
    if most >= count:
        return f"a node has {most} {kind}"
    wanted = f"{count} {kind}" + (f" and the labels {selector}" if selector else "")
    raise NotChecked(f"no node has {wanted} now; fine if a pool grows from 0")


def _namespace_quota(config: DoctorConfig, values: dict) -> str:
    """Whether the namespace may have so many accelerators more."""
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
                    f"namespace {namespace} has {limit} {kind} by its quota {quota.metadata.name}, "
                    f"of which {used} are used; the run needs {count}."
                )
    return f"namespace {namespace} may have {count} {kind} more"


class _kubernetes:
    """The Kubernetes client, of the cluster that kubectl speaks to."""

    def __enter__(self):
        import kubernetes

        try:
            kubernetes.config.load_kube_config()
        except kubernetes.config.ConfigException:
            raise NotChecked("kubectl is set up for no cluster here") from None
        return kubernetes.client

    def __exit__(self, kind, error, traceback):
        if error is not None:
            words = getattr(error, "reason", None) or error
            raise NotChecked(f"Kubernetes did not tell: {words}") from None


def _google_quota(config: DoctorConfig, values: dict) -> str:
    """Whether the region's quota of the project leaves room for the accelerators."""
    metric = quota_metric(values["node_selector"])
    if not metric:
        raise NotChecked("not a pool of GKE's, by its node_selector")
    if not config.project:
        raise NotChecked(f"give --project and --region to see what is left of {metric}")
    path = f"projects/{config.project}/regions/{config.region}"
    with _google_cloud() as (ask, _):
        quotas = ask(f"{COMPUTE}/{path}")["quotas"]
    return room(quotas, metric, _accelerators(values)[1], path)


@contextlib.contextmanager
def _google_cloud() -> Iterator[tuple[Callable[[str], dict], str | None]]:
    """A function that asks Google Cloud what is at an address, and the project of who asks."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from requests.exceptions import RequestException

    def ask(url: str) -> dict:
        answer = AuthorizedSession(credentials).get(url, timeout=20)
        answer.raise_for_status()
        return answer.json()

    try:
        scope = "https://www.googleapis.com/auth/cloud-platform"
        credentials, project = google.auth.default([scope])
        yield ask, project
    except (GoogleAuthError, RequestException) as error:
        raise NotChecked(f"Google Cloud did not tell: {error}") from None


def quota_metric(node_selector: dict[str, str]) -> str:
    """Google Cloud's name of the quota of the GPUs that GKE's nodes are chosen by; or empty."""
    name = node_selector.get("cloud.google.com/gke-accelerator", "").upper().replace("-", "_")
    spot = "PREEMPTIBLE_" if node_selector.get("cloud.google.com/gke-spot") == "true" else ""
    return f"{spot}{name.replace('_TESLA_', '_')}_GPUS" if name else ""


def room(quotas: list[dict], metric: str, count: int, where: str) -> str:
    """Says how much a quota leaves, or raises UserError if that is not enough."""
    quota = next((quota for quota in quotas if quota["metric"] == metric), None)
    if quota is None:
        raise NotChecked(f"{where} has no quota of the name {metric}")
    left = int(quota["limit"] - quota["usage"])
    text = f"{left} of {int(quota['limit'])} {metric} are left in {where}"
    if left < count:
        raise UserError(f"{text}; the run needs {count}. Ask Google Cloud for more.")
    return text


def _vertex_quota(config: DoctorConfig, values: dict) -> str:
    """Whether Vertex AI may train on so many accelerators; how many do now, it does not tell."""
    kind, count = _accelerators(values)
    metric = f"aiplatform.googleapis.com/{vertex_quota_metric(kind)}"
    with _google_cloud() as (ask, project):
        service = f"projects/{config.project or project}/services/aiplatform.googleapis.com"
        answer = ask(f"{SERVICE_USAGE}/{service}/consumerQuotaMetrics/{quote(metric, safe='')}")
    limit = limit_in(config.region, answer)
    if limit is None:
        raise UserError(f"Vertex AI has no {kind} in {config.region}.")
    if limit < count:
        raise UserError(
            f"The quota {metric} is {limit} in {config.region}; the run needs {count}. Ask Google "
            "Cloud for more."
        )
    return f"{metric} is {limit} in {config.region}, of which some may be in use"


def vertex_quota_metric(accelerator_type: str) -> str:
    """Vertex AI's name of the quota of accelerators to train on.

    Of GPUs that have one size of memory only, the name does not tell it.
    """
    name = accelerator_type.lower().replace("_tesla_", "_")
    if "_a100_" not in name:
        name = re.sub(r"_\d+gb$", "", name)
    return f"custom_model_training_{name}_gpus"


def limit_in(region: str, metric: dict) -> float | None:
    """The limit that a consumerQuotaMetric of Service Usage sets in a region; None: not for it."""
    limits = []
    for limit in metric.get("consumerQuotaLimits", []):
        if region not in limit.get("supportedLocations", [region]):
            return None
        # From the general ones to the special ones, of which the last that fits holds.
        fitting = [
            bucket
            for bucket in limit.get("quotaBuckets", [])
            if bucket.get("dimensions", {}).get("region", region) == region
        ]
        value = int(fitting[-1].get("effectiveLimit", 0)) if fitting else 0  # 0 is left out in JSON
        limits.append(value if value >= 0 else float("inf"))
    return min(limits, default=0)
