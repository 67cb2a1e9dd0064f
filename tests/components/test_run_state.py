"""Canceled runs, by recorded answers of Kubeflow Pipelines 2.17."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from components import run_state
from pipeline.paths import ROOT

RECORDED = ROOT / "tests" / "pipeline" / "recorded"


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = self.server.answers.get(self.path, (404, "not found"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def api(monkeypatch):
    """Kubeflow's API, as a step's pod finds it; answers: path -> (status, body)."""
    server = HTTPServer(("127.0.0.1", 0), Api)
    server.answers = {}
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("KFP_POD_NAME", "yt8m-pipeline-56bcz-impl-1")
    monkeypatch.setenv("ML_PIPELINE_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://proxy.invalid")  # does not lead to Services
    monkeypatch.setattr(run_state, "PORT", server.server_port)
    yield server
    server.shutdown()
    server.server_close()


def recorded(name: str) -> dict:
    """A recorded run, as it was before its exit handler ended."""
    run = json.loads((RECORDED / f"run_{name}.json").read_text())["body"]
    *before, _ending = run["state_history"]
    return run | {"state": before[-1]["state"], "state_history": before}


@pytest.mark.parametrize(
    "name, canceled",
    [
        ("cancelled_while_training", True),
        ("failed_in_validation", False),
        ("rejected", False),
        ("published", False),
    ],
)
def test_recorded_runs(api, name, canceled):
    api.answers["/apis/v2beta1/runs/1a2b"] = (200, json.dumps(recorded(name)))
    assert run_state.is_canceled("1a2b") is canceled


@pytest.mark.parametrize("answer", [(401, "no user identity"), (200, "<html>"), (200, "[]")])
def test_an_answer_that_tells_nothing_is_logged(api, answer, caplog):
    api.answers["/apis/v2beta1/runs/1a2b"] = answer
    assert run_state.is_canceled("1a2b") is False
    assert "does not say whether the run was cancelled" in caplog.text


def test_an_api_that_cannot_be_reached_is_logged(api, monkeypatch, caplog):
    api.shutdown()
    api.server_close()
    assert run_state.is_canceled("1a2b") is False
    assert "does not say whether the run was cancelled" in caplog.text


def test_nobody_is_asked_outside_kubeflow(monkeypatch, caplog):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    assert run_state.is_canceled("1a2b") is False
    assert caplog.text == ""
