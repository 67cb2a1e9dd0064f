"""Tracking with a real MLflow server, and without one that answers."""

import os
import subprocess
import sys
import time
import urllib.request

import pytest

from components.tracking import log_evaluation, log_published
from tests.ports import free_port
from trainer.common import tracking
from trainer.common.tracking import Tracker


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of an MLflow server with a sqlite store."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    command += [f"--artifacts-destination={folder}/artifacts"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            uri = f"http://localhost:{port}"
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{uri}/health", timeout=5)
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    time.sleep(0.5)
            yield uri
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def client(server, monkeypatch):
    """Client of the server that MLFLOW_TRACKING_URI names."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return MlflowClient(server)


def only_run(client, train_dir: str):
    experiment = client.get_experiment_by_name("yt8m-pipeline")
    tag = f"tags.`{tracking.TRAIN_DIR_TAG}` = '{train_dir}'"
    (run,) = client.search_runs([experiment.experiment_id], tag)
    return run


@pytest.mark.slow
def test_training_evaluation_and_publishing_are_one_run(client, make_config, tmp_path, capsys):
    from trainer import evaluate
    from trainer.training.loop import train

    config = make_config(num_epochs=1)
    train(config)
    train(make_config(num_epochs=2))  # a resumed run, with a changed flag
    run = only_run(client, config.train_dir)
    assert run.data.params["model"] == "LogisticModel"
    assert run.data.params["num_epochs"] == "1"
    assert run.data.tags["yt8m.changed_params"] == '{"num_epochs": "2"}'
    history = client.get_metric_history(run.info.run_id, "train/loss")
    # The first and the last step of each run; on a slow machine, others between them.
    assert {1, 5, 6, 10} <= {point.step for point in history} <= set(range(1, 11))

    evaluate.main(
        [
            "evaluate",
            f"--train_dir={config.train_dir}",
            f"--eval_data_pattern={config.train_data_pattern}",
        ]
    )
    metrics = {"challenger": {"gap": 0.5}, "champion": {"gap": 0.25}, "step": 10}
    (tmp_path / "report.html").write_text("<h1>Report</h1>")
    log_evaluation(config.train_dir, str(tmp_path), metrics)
    log_published(config.train_dir, {"version": "3", "path": "published/3"})
    run = only_run(client, config.train_dir)
    assert 0 < run.data.metrics["eval/map"] <= 1
    assert (run.data.metrics["eval/gap"], run.data.metrics["champion/gap"]) == (0.5, 0.25)
    assert run.data.tags["yt8m.published_version"] == "3"
    artifacts = client.list_artifacts(run.info.run_id, "evaluation")
    assert [artifact.path for artifact in artifacts] == ["evaluation/report.html"]


@pytest.mark.slow
def test_the_run_that_the_environment_names_is_used(client, monkeypatch):
    experiment_id = client.create_experiment("kubeflow")
    run_id = client.create_run(experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with Tracker("/any/train_dir") as tracker:
        tracker.log_metrics({"loss": 0.5}, step=3)
    assert client.get_run(run_id).data.metrics == {"loss": 0.5}


def test_a_server_that_is_down_is_a_warning(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started = time.monotonic()
    with Tracker("/any/train_dir") as tracker:
        for step in range(1000):
            tracker.log_metrics({"loss": 0.5}, step)
        assert time.monotonic() - started < 1
    warnings = [record.getMessage() for record in caplog.records if "MLflow" in record.getMessage()]
    assert len(warnings) == 1
    assert "Trying again in 60 seconds" in warnings[0]


def test_without_a_server_mlflow_is_not_imported():
    program = (
        "import sys; from trainer.common.tracking import Tracker\n"
        "with Tracker('x') as t: t.log_metrics({'loss': 1.0}, 1); t.log_params({'a': 1})\n"
        "assert 'mlflow' not in sys.modules and t._thread is None"
    )
    environment = {n: v for n, v in os.environ.items() if n != "MLFLOW_TRACKING_URI"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
