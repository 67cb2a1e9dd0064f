"""Tells canceled runs from failed ones on Kubeflow.

The state that Kubeflow Pipelines 2.17 hands to an exit handler is RUNNING for a cancelled run and
for one whose step was killed. Its API tells them apart: CANCELING is the state of a cancelled run
until the exit handler has ended.
"""

import http.client
import json
import logging
import os
import urllib.request

HOST = "ml-pipeline.kubeflow"  # unless the API's Service is in the pod's own namespace
PORT = 8888
TIMEOUT_SECONDS = 10


def is_canceled(run_id: str) -> bool:
    """Return whether Kubeflow says that a run was cancelled; False where it cannot be asked."""
    if "KFP_POD_NAME" not in os.environ:  # not a pod of Kubeflow Pipelines
        return False
    host = os.environ.get("ML_PIPELINE_SERVICE_HOST", HOST)
    address = f"http://{host}:{PORT}/apis/v2beta1/runs/{run_id}"
    inside = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with inside.open(address, timeout=TIMEOUT_SECONDS) as answer:
            run = json.load(answer)
        states = [run, *run.get("state_history", [])]
        return any(entry.get("state") == "CANCELING" for entry in states)
    except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
        logging.warning("Kubeflow does not say whether the run was cancelled: %s", error)
        return False
