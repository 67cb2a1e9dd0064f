"""The Job and the Service of the workers, as Kubernetes manifests.

The train step's own pod is worker 0. An Indexed Job runs the others, worker 1 with completion index
0 and so on, and a headless Service gives them host names. All settings of their pods are those of
the step's pod, so what a profile or a run asks for applies to every worker.
"""

import ipaddress
import re

PORT = 2222
RUN_LABEL = "pipeline/runid"  # set by Kubeflow on the pods of a run
JOB_LABEL = "batch.kubernetes.io/job-name"  # set by Kubernetes on the pods of a Job
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

POD_SETTINGS = (
    "affinity",
    "dnsConfig",
    "dnsPolicy",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
)
CONTAINER_SETTINGS = ("image", "imagePullPolicy", "resources", "securityContext")

# Of Argo and Kubeflow, for their own programs in a step's pod.
INTERNAL_VOLUMES = re.compile(r"kfp-launcher|var-run-argo|kube-api-access-.*|.*-scratch")
INTERNAL_VARIABLES = ("ARGO_", "KFP_")


def job_name(pod: dict, attempt: int) -> str:
    """Return the name of the Job and of the Service; a new one for each attempt.

    Args:
        pod: The step's own pod.
        attempt: Number of times that the workers were started before.
    """
    return f"train-{pod['metadata']['uid'][:8]}-{attempt}"


def addresses(pod: dict, attempt: int, num_workers: int) -> list[str]:
    """Return host:port of each worker.

    Each attempt has a port of its own, so that a worker that is left over from the last attempt
    cannot connect to worker 0.
    """
    name, port = job_name(pod, attempt), PORT + attempt
    domain = f"{name}.{pod['metadata']['namespace']}.svc"
    address = ipaddress.ip_address(pod["status"]["podIP"])
    host = f"[{address}]" if address.version == 6 else str(address)
    others = [f"{name}-{index}.{domain}:{port}" for index in range(num_workers - 1)]
    return [f"{host}:{port}", *others]


def service(pod: dict, name: str) -> dict:
    """Return the headless Service that gives the pods of the Job `name` host names."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pod, name),
        "spec": {
            "clusterIP": "None",
            "selector": {JOB_LABEL: name},
            "publishNotReadyAddresses": True,  # the workers wait for each other
        },
    }


def job(pod: dict, name: str, num_pods: int, argv: list[str], environment: dict[str, str]) -> dict:
    """Return the Indexed Job that runs the other workers.

    Args:
        pod: The step's own pod.
        name: Name of the Job and of its Service.
        num_pods: Number of pods, one less than there are workers.
        argv: Arguments of `python -m components.workers`.
        environment: Further environment variables.
    """
    (main,) = [c for c in pod["spec"]["containers"] if c["name"] == "main"]
    mounts = [
        mount
        for mount in main.get("volumeMounts", [])
        if not INTERNAL_VOLUMES.fullmatch(mount["name"])
    ]
    mounted = {mount["name"] for mount in mounts}
    variables = [
        variable
        for variable in main.get("env", [])
        if "value" in variable and not variable["name"].startswith(INTERNAL_VARIABLES)
    ]
    container = {
        "name": "main",
        "command": ["python3", "-m", "components.workers", *argv],
        "env": variables + [{"name": n, "value": value} for n, value in environment.items()],
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_subset(main, CONTAINER_SETTINGS),
    }
    pod_spec = {
        **_subset(pod["spec"], POD_SETTINGS),
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "subdomain": name,
        "containers": [container],
        "volumes": [v for v in pod["spec"].get("volumes", []) if v["name"] in mounted],
    }
    pod_metadata = {
        "labels": _run_labels(pod),
        # A sidecar would keep the Job from ending.
        "annotations": {"sidecar.istio.io/inject": "false"},
    }
    metadata = _metadata(pod, name)
    if queue := pod["metadata"].get("labels", {}).get(QUEUE_LABEL):
        metadata["labels"][QUEUE_LABEL] = queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": num_pods,
            "parallelism": num_pods,
            # A single worker is not replaced: the step restarts all of them, and until then the
            # others keep running, because they save a checkpoint.
            "backoffLimitPerIndex": 0,
            "ttlSecondsAfterFinished": 600,  # in case the step cannot delete it
            "template": {"metadata": pod_metadata, "spec": pod_spec},
        },
    }


def _metadata(pod: dict, name: str) -> dict:
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    return {"name": name, "labels": _run_labels(pod), "ownerReferences": [owner]}


def _run_labels(pod: dict) -> dict:
    return {
        "app.kubernetes.io/managed-by": "yt8m-pipeline",
        **_subset(pod["metadata"].get("labels", {}), (RUN_LABEL,)),
    }


def _subset(values: dict, names: tuple[str, ...]) -> dict:
    return {name: values[name] for name in names if name in values}
