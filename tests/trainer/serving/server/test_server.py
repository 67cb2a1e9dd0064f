"""The model server over HTTP: both protocols, a change of the model under load, and the log."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from pipeline.paths import ROOT
from tests.ports import free_port
from trainer.data.examples import encode_example
from trainer.data.tfrecord import read_records
from trainer.serving import saved_model

FEATURES = {"rgb": np.ones(3, np.float32), "audio": np.ones(2, np.float32)}
RECORD = encode_example({"id": "v1"} | FEATURES)


def post(url: str, body: dict | bytes, headers: dict | None = None) -> dict:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (headers or {})
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def export(save_logistic_model, tmp_path):
    """export(name, probabilities): the folder of an exported model."""

    def export(name: str, probabilities) -> Path:
        folder = tmp_path / "exported" / name
        train_dir = save_logistic_model(probabilities)
        saved_model.export(train_dir, str(folder))
        shutil.rmtree(train_dir)
        return folder

    return export


def promote(model: Path, served: Path, number: int) -> None:
    """Copy a model to the served folder, under a number."""
    shutil.copytree(model, served / f"copy-{number}")
    (served / f"copy-{number}").rename(served / str(number))


@pytest.fixture
def start(tmp_path):
    """start(served_dir, **flags): the address of a server, which `start.stop()` ends."""
    processes = []

    def start(served: Path, **flags) -> str:
        port = free_port()
        command = [sys.executable, "-m", "trainer.serving.server", f"--served_dir={served}"]
        command += [f"--port={port}", "--poll_seconds=0.2"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
        with open(tmp_path / "server.log", "wb") as log:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log))
        address = f"http://localhost:{port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/v2/health/ready", timeout=5)
                return address
            except OSError:
                assert processes[-1].poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        raise AssertionError((tmp_path / "server.log").read_text())

    def stop():
        for process in processes:
            process.terminate()
            process.wait(60)
        processes.clear()

    start.stop = stop
    yield start
    stop()


def v1_body(record: bytes = RECORD) -> dict:
    return {"instances": [{"examples": {"b64": base64.b64encode(record).decode()}}]}


@pytest.mark.slow
def test_both_protocols_errors_and_the_log(export, start, tmp_path):
    served, log = tmp_path / "served", tmp_path / "log"
    served.mkdir()
    promote(export("model", [0.25, 0.75]), served, 1)
    address = start(served, log_dir=log, sample_rate=1)
    row = {"video_id": "v1", "classes": [1, 0], "scores": pytest.approx([0.75, 0.25])}

    # TensorFlow Serving: rows, columns and values without a name.
    encoded = {"b64": base64.b64encode(RECORD).decode()}
    url = f"{address}/v1/models/yt8m:predict"
    (prediction,) = post(url, v1_body())["predictions"]
    assert prediction == row | {"names": ["class 1", "class 0"]}
    assert post(url, {"instances": [encoded, encoded]})["predictions"] == [prediction] * 2
    columns = post(url, {"inputs": {"examples": [encoded]}})["outputs"]
    assert (columns["video_id"], columns["classes"]) == (["v1"], [[1, 0]])

    # Open Inference Protocol: base64 in JSON, and in the extension for binary data, whose texts
    # KServe takes to be UTF-8.
    infer = f"{address}/v2/models/yt8m/infer"
    tensor = {"name": "examples", "shape": [1], "datatype": "BYTES"}
    as_text = tensor | {"data": [encoded["b64"]], "parameters": {"content_type": "base64"}}
    answer = post(infer, {"id": "a", "inputs": [as_text]})
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a", "yt8m", "1")
    assert (outputs["classes"]["shape"], outputs["classes"]["data"]) == ([1, 2], [1, 0])
    assert outputs["names"]["data"] == ["class 1", "class 0"]
    text = encoded["b64"].encode()
    binary = len(text).to_bytes(4, "little") + text
    parameters = {"binary_data_size": len(binary), "content_type": "base64"}
    header = {"inputs": [tensor | {"parameters": parameters}]}
    text = json.dumps(header).encode()
    sizes = {"Inference-Header-Content-Length": str(len(text))}
    sizes["Content-Type"] = "application/octet-stream"
    assert post(infer, text + binary, sizes)["outputs"] == answer["outputs"]

    for body, message in [
        ({}, '"instances" or "inputs"'),
        ({"instances": []}, "at least one instance"),
        ({"instances": [{"other": 1}]}, "Expected the inputs examples; got other"),
        ({"instances": [{"b64": "###"}]}, "Expected base64 text"),
        ({"instances": [[1.0]]}, "must be string"),
        (v1_body(b"no record"), "The records cannot be parsed"),
        (v1_body() | {"signature_name": "x"}, "There is no signature 'x'"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(url, body)
        assert caught.value.code == 400, body
        assert message in json.loads(caught.value.read())["error"]

    metrics = urllib.request.urlopen(f"{address}/metrics").read().decode()
    assert 'yt8m_videos_total{model="yt8m",version="1"} 6.0' in metrics
    assert 'yt8m_model_version{model="yt8m"} 1.0' in metrics
    assert "request_predict_seconds" in metrics
    start.stop()
    (file,) = log.rglob("*.tfrecord")
    assert list(read_records(str(file))) == [RECORD] * 6


@pytest.mark.slow
def test_a_promoted_model_answers_without_a_failed_request(export, start, tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    models = {"a": export("a", [0.25, 0.75]), "b": export("b", [0.875, 0.5])}
    promote(models["a"], served, 1)
    url = f"{start(served)}/v1/models/yt8m:predict"
    best, failures, stopped = [], [], threading.Event()

    def send_requests():
        while not stopped.is_set():
            try:
                best.append(post(url, v1_body())["predictions"][0]["scores"][0])
            except (OSError, ValueError) as error:
                failures.append(error)

    def wait_for(score: float):
        for _ in range(600):
            if best[-3:] == [score] * 3:
                return
            time.sleep(0.1)
        raise AssertionError(f"{score} is not among the last answers {best[-3:]}")

    threads = [threading.Thread(target=send_requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(0.75)
        promote(models["b"], served, 2)
        wait_for(0.875)
        (served / "3").mkdir()  # a version that is not complete is not served
        (served / "3" / "saved_model.pb").write_bytes(b"damaged")
        time.sleep(1)
        wait_for(0.875)
        promote(models["a"], served, 4)  # roll back
        wait_for(0.75)
        shutil.rmtree(served / "2")
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(best) > 20
    changes = [a for a, b in itertools.pairwise(best) if a != b]
    assert 2 <= len(changes) <= 2 * len(threads)  # each thread changes at its own next request
