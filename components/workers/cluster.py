"""The Kubernetes API, as the train step uses it from its own pod."""

import contextlib
import json
import logging
import os
from pathlib import Path

from kubernetes import client, config
from kubernetes.client import ApiException, V1Pod
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from components.workers.manifests import JOB_LABEL, RUN_LABEL
from trainer.common.errors import UserError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT_SECONDS = 30

FORBIDDEN = 403
GONE = 404


class Cluster:
    """The namespace of the step's pod.

    Args:
        core: Client of pods and Services.
        batch: Client of Jobs.
        namespace: The namespace.
    """

    def __init__(self, core: client.CoreV1Api, batch: client.BatchV1Api, namespace: str):
        self._core = core
        self._batch = batch
        self._namespace = namespace

    @classmethod
    def of_this_pod(cls) -> "Cluster":
        """Connect with the credentials of this pod's service account.

        Raises:
            UserError: This process does not run in a pod that has credentials.
        """
        try:
            config.load_incluster_config()
            namespace = NAMESPACE_FILE.read_text().strip()
        except (ConfigException, OSError) as error:
            raise UserError(
                "num_workers > 1 needs Kubernetes: the train step starts the other workers with "
                f"the service account of its pod. This process has none: {error}"
            ) from None
        return cls(client.CoreV1Api(), client.BatchV1Api(), namespace)

    def own_pod(self) -> dict:
        """Return the manifest and the status of this pod."""
        # The host name is no substitute: it is cut after 63 characters.
        name = os.environ["KFP_POD_NAME"]
        with _explained("read its own pod"):
            pod = self._core.read_namespaced_pod(
                name, self._namespace, _request_timeout=TIMEOUT_SECONDS
            )
        return self._core.api_client.sanitize_for_serialization(pod)

    def create(self, service: dict, job: dict):
        """Create a Service and a Job.

        Raises:
            UserError: The API refuses them.
        """
        with _explained("create a Service and a Job"):
            self._core.create_namespaced_service(
                self._namespace, service, _request_timeout=TIMEOUT_SECONDS
            )
            self._batch.create_namespaced_job(
                self._namespace, job, _request_timeout=TIMEOUT_SECONDS
            )

    def delete(self, name: str):
        """Delete the Job and the Service of that name, with the Job's pods; log what fails."""
        for delete in (self._batch.delete_namespaced_job, self._core.delete_namespaced_service):
            try:
                delete(
                    name,
                    self._namespace,
                    propagation_policy="Background",
                    _request_timeout=TIMEOUT_SECONDS,
                )
            except (ApiException, HTTPError) as error:
                if getattr(error, "status", None) != GONE:
                    logging.warning("Cannot delete the workers' %s: %s", name, _reason(error))

    def delete_all(self, run_id: str):
        """Delete the Jobs and Services that the train step of a run created."""
        selector = f"app.kubernetes.io/managed-by=yt8m-pipeline,{RUN_LABEL}={run_id}"
        with _explained("list Services"):
            services = self._core.list_namespaced_service(
                self._namespace, label_selector=selector, _request_timeout=TIMEOUT_SECONDS
            )
        for service in services.items:
            self.delete(service.metadata.name)

    def pods_of_job(self, name: str) -> list[V1Pod] | None:
        """Return the pods of a Job; None if the API does not answer now."""
        try:
            return self._core.list_namespaced_pod(
                self._namespace,
                label_selector=f"{JOB_LABEL}={name}",
                _request_timeout=TIMEOUT_SECONDS,
            ).items
        except (ApiException, HTTPError) as error:
            logging.warning("Cannot list the workers' pods: %s", _reason(error))
            return None


def delete_workers(run_id: str):
    """Delete what the train step of a run left, such as when the run was cancelled."""
    try:
        Cluster.of_this_pod().delete_all(run_id)
    except UserError as error:  # they are deleted with the step's pod at the latest
        logging.warning("%s", error)


@contextlib.contextmanager
def _explained(action: str):
    """Raise the API's errors as UserErrors that say what the step cannot do."""
    try:
        yield
    except (ApiException, HTTPError) as error:
        hint = ""
        if getattr(error, "status", None) == FORBIDDEN:
            hint = " Its service account needs the permissions in infra/kubernetes/workers.yaml."
        raise UserError(
            f"The train step cannot {action}, as num_workers > 1 requires: {_reason(error)}.{hint}"
        ) from None


def _reason(error: Exception) -> str:
    """Return the API's message, without the headers of its answer."""
    if isinstance(error, ApiException) and error.body:
        try:
            return json.loads(error.body)["message"].rstrip(".")
        except (ValueError, KeyError, TypeError):
            return f"{error.status} {error.reason}"
    return str(error)
