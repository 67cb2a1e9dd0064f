"""Log training and evaluation to MLflow, if MLFLOW_TRACKING_URI is set.

Without it, nothing happens, and mlflow is not imported. What is logged about one train_dir goes to
one MLflow run: the run MLFLOW_RUN_ID, or the one with the tag TRAIN_DIR_TAG, which is created if
there is none, in the experiment MLFLOW_EXPERIMENT_NAME. A training run that is resumed therefore
continues its MLflow run, and an evaluation in another process adds to it.

A thread sends the values, so a slow server does not slow down training. If the server cannot be
reached, a warning is logged, and the values of the next RETRY_SECONDS are dropped.
"""

import json
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

URI_VARIABLE = "MLFLOW_TRACKING_URI"
TRAIN_DIR_TAG = "yt8m.train_dir"
EXPERIMENT = "yt8m-pipeline"
MAX_PARAM_LENGTH = 500  # of MLflow's oldest servers
RETRY_SECONDS = 60
CLOSE_SECONDS = 30  # maximum time to wait for values that are not sent yet

# Time-outs of mlflow's requests, unless the user sets them: by default they retry for minutes.
REQUEST_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class Tracker:
    """Logs to the MLflow run of a train_dir. A context manager, which sends the rest at the end.

    Args:
        train_dir: The directory that identifies the run.
    """

    def __init__(self, train_dir: str):
        self._train_dir = train_dir
        self.enabled = bool(os.environ.get(URI_VARIABLE))
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = None
        self._run = None  # (client, run id), once the server has answered
        self._retry_at = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def log_params(self, params: dict) -> None:
        """Log parameters. A value that changed since the run began is logged as a tag."""
        self._submit(lambda client, run_id: _log_params(client, run_id, params))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics of a step."""
        milliseconds = int(time.time() * 1000)

        def send(client, run_id):
            from mlflow.entities import Metric

            values = [Metric(name, v, milliseconds, step) for name, v in metrics.items()]
            client.log_batch(run_id, metrics=values)

        self._submit(send)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags of the run."""

        def send(client, run_id):
            for name, value in tags.items():
                client.set_tag(run_id, name, value)

        self._submit(send)

    def log_text(self, name: str, text: str) -> None:
        """Log a text file, e.g. a report, as the artifact `name`."""

        def send(client, run_id):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, Path(name).name)
                path.write_text(text)
                client.log_artifact(run_id, str(path), str(Path(name).parent))

        self._submit(send)

    def close(self) -> None:
        """Send what is left, for CLOSE_SECONDS at most."""
        if self._thread:
            self._tasks.put(None)
            self._thread.join(CLOSE_SECONDS)
            self._thread = None

    def _submit(self, send: Callable) -> None:
        if not self.enabled:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()
        self._tasks.put(send)

    def _work(self) -> None:
        while (send := self._tasks.get()) is not None:
            if time.monotonic() < self._retry_at:
                continue
            try:
                self._run = self._run or _open_run(self._train_dir)
                send(*self._run)
            except Exception as error:  # mlflow raises those of requests, urllib3 and its own
                self._retry_at = time.monotonic() + RETRY_SECONDS
                logging.warning(
                    "Cannot log to MLflow at %s: %s. Trying again in %d seconds.",
                    os.environ[URI_VARIABLE],
                    str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
                    RETRY_SECONDS,
                )


def _open_run(train_dir: str) -> tuple:
    """Return a client and the id of the run to log to."""
    for name, value in REQUEST_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise RuntimeError("the package mlflow-skinny is not installed") from None
    client = MlflowClient()
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        return client, run_id
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or _experiment(client)
    condition = f"tags.`{TRAIN_DIR_TAG}` = '{train_dir}'"
    runs = client.search_runs([experiment_id], condition, max_results=1)
    if runs:
        return client, runs[0].info.run_id
    name = train_dir.rstrip("/").rsplit("/", 1)[-1]
    run = client.create_run(experiment_id, tags={TRAIN_DIR_TAG: train_dir}, run_name=name)
    return client, run.info.run_id


def _experiment(client) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    return experiment.experiment_id if experiment else client.create_experiment(name)


def _log_params(client, run_id: str, params: dict) -> None:
    from mlflow.entities import Param

    logged = client.get_run(run_id).data.params
    texts = {name: str(value)[:MAX_PARAM_LENGTH] for name, value in params.items()}
    new = [Param(name, text) for name, text in texts.items() if name not in logged]
    client.log_batch(run_id, params=new)
    changed = {name: text for name, text in texts.items() if logged.get(name, text) != text}
    if changed:  # a parameter of MLflow cannot change
        client.set_tag(run_id, "yt8m.changed_params", json.dumps(changed))
