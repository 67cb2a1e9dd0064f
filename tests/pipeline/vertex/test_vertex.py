import sys

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.aiplatform.utils import gcs_utils

from pipeline import schedule
from pipeline.__main__ import main
from pipeline.vertex import client as vertex
from tests.pipeline.vertex_server import VertexServer

PARAMETERS = ["train_data=gs://b/train*", "eval_data=gs://b/eval*", "output_dir=/gcs/b/out"]
NIGHTLY = ["--cron=0 2 * * *", *PARAMETERS]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("pipeline.vertex.submit.POLL_SECONDS", 0.001)
    monkeypatch.setattr("pipeline.vertex.submit.BACKOFF_SECONDS", 0.001)
    # This sends a request to another Google service.
    monkeypatch.setattr(gcs_utils, "_verify_bucket_ownership", lambda *_, **__: True)
    with VertexServer() as server:
        how = {"project": "p", "credentials": AnonymousCredentials(), "api_transport": "rest"}
        monkeypatch.setattr(vertex, "INIT", how | {"api_endpoint": server.url})
        yield server


@pytest.fixture
def flags(server, compiled, gcs_bucket):
    return [
        "--target=vertex",
        f"--pipeline={compiled['vertex']}",
        f"--pipeline_root={gcs_bucket}/root",
        "--region=europe-west4",
    ]


@pytest.fixture
def run(flags, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as exit:
            main(["submit", *flags, *PARAMETERS, *words])
        said = capsys.readouterr()
        if isinstance(exit.value.code, str):
            return 1, said.out, exit.value.code
        return exit.value.code, said.out, said.err

    return run


@pytest.fixture
def plan(flags, capsys):
    def plan(*words):
        action = [word for word in words[:1] if word in schedule.ACTIONS]
        with pytest.raises(SystemExit) as exit:
            main(["schedule", *action, *flags, *words[len(action) :]])
        if exit.value.code:
            raise exit.value
        return capsys.readouterr().out

    return plan


def test_run_has_spec_parameters_account_and_labels(server, run, gcs_bucket):
    code, out, _ = run("--service_account=me@p", "--labels=team=video,stage=test", "num_epochs=2")
    assert code == 0
    (job,) = server.of_kind("pipelineJobs")
    assert job["name"].startswith("projects/p/locations/europe-west4/pipelineJobs/yt8m-")
    assert job["pipelineSpec"]["pipelineInfo"]["name"] == "yt8m-pipeline"
    assert job["serviceAccount"] == "me@p"
    assert job["labels"]["team"] == "video"
    assert job["runtimeConfig"]["gcsOutputDirectory"] == f"{gcs_bucket}/root"
    given = job["runtimeConfig"]["parameterValues"]
    assert (given["num_epochs"], given["output_dir"]) == (2, "/gcs/b/out")
    assert job["name"].rsplit("/", 1)[1] in out


@pytest.mark.parametrize(
    "state, code", [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 3), ("PAUSED", 124)]
)
def test_exit_code_of_each_final_state(server, run, state, code):
    server.script = [
        {"state": f"PIPELINE_STATE_{now}"} for now in ("PENDING", "RUNNING", "CANCELLING", state)
    ]
    assert run("--wait", "--timeout=0.0005")[0] == code


def test_failed_step_is_named(server, run):
    times = {"startTime": "2025-01-01T12:00:00Z", "endTime": "2025-01-01T12:01:00Z"}
    failed = {"taskName": "train", "state": "FAILED", "error": {"message": "OOM"}, **times}
    server.script = [
        {"state": "PIPELINE_STATE_FAILED", "jobDetail": {"taskDetails": [failed]}},
    ]
    code, out, err = run("--wait")
    assert code == 1
    assert "12:01:00  Train          failed" in out
    assert err.startswith("error: Train failed: OOM\nLog: https://console.cloud.google.com/")


@pytest.mark.parametrize("fault", ["lost", 503])
def test_everything_is_created_once_when_an_answer_is_lost(server, run, fault):
    server.faults = [("POST", "pipelineJobs$", fault)]
    assert run("--wait")[0] == 0
    assert server.faults == []
    assert len(server.of_kind("pipelineJobs")) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--pipeline_root="], "error: Vertex AI needs a folder for artifacts"),
        (["--labels=Team=x"], "error: --labels must be like team=video"),
        (["num_epoch=1"], "error: There is no parameter 'num_epoch'"),
        (["node_selector={}"], "error: There is no parameter 'node_selector'"),
    ],
)
def test_mistake_is_an_error_before_a_request(server, run, words, message):
    code, _, err = run(*words)
    assert code == 1
    assert err.startswith(message)
    assert server.items == {}


def test_refused_request_shows_no_traceback(server, run):
    server.faults = [("POST", "pipelineJobs$", 403)]
    assert run()[2].startswith("error: Vertex AI refused the request: ")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda body: body | {"displayed": "x"}, 'has no field named "displayed"'),
        (lambda body: body | {"runtimeConfig": {"failurePolicy": "NEVER"}}, "Invalid enum value"),
        (lambda body: {n: v for n, v in body.items() if n != "runtimeConfig"}, "is required"),
    ],
)
def test_the_stand_in_refuses_what_is_no_pipeline_job(server, run, change, message):
    run()
    (job,) = server.of_kind("pipelineJobs")
    assert set(job) >= {"displayName", "pipelineSpec", "runtimeConfig", "labels", "state"}
    body = {name: value for name, value in job.items() if name not in ("name", "state")}
    path = "/v1/projects/p/locations/l/pipelineJobs"
    assert server.answer("POST", path, {}, body)[0] == 200
    status, answer = server.answer("POST", path, {}, change(body))
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in answer["error"]["message"]


def test_missing_vertex_client_is_an_error(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform", None)
    monkeypatch.delattr("google.cloud.aiplatform")
    assert "is not installed. Run `make install-dev`" in run()[2]


def test_dry_run_sends_nothing(server, run):
    code, out, _ = run("--dry-run")
    assert code == 0
    assert "region:          europe-west4" in out
    assert server.items == {}


def test_schedule_is_created_unchanged_and_replaced(server, plan):
    assert "(created)" in plan(*NIGHTLY)
    (made,) = server.of_kind("schedules")
    assert made["cron"] == "0 2 * * *"
    assert made["maxConcurrentRunCount"] == "1"
    assert "allowQueueing" not in made
    assert "(unchanged)" in plan(*NIGHTLY)
    assert server.of_kind("schedules") == [made]
    assert "(updated)" in plan(*NIGHTLY, "num_epochs=2")
    (replaced,) = server.of_kind("schedules")
    job = replaced["createPipelineJobRequest"]["pipelineJob"]
    assert job["runtimeConfig"]["parameterValues"]["num_epochs"] == 2


def test_schedule_is_paused_resumed_listed_and_deleted(server, plan):
    plan(*NIGHTLY)
    plan("pause")
    assert plan("list") == "yt8m-nightly             paused   0 2 * * *\n"
    assert "(updated)" in plan(*NIGHTLY, "num_epochs=2")
    assert server.of_kind("schedules")[0]["state"] == "PAUSED"
    plan("resume")
    assert server.of_kind("schedules")[0]["state"] == "ACTIVE"
    assert server.of_kind("schedules")[0]["catchUp"] is False
    plan("pause")
    plan("resume", "--catchup")
    assert server.of_kind("schedules")[0]["catchUp"] is True
    plan("delete")
    assert plan("list") == "There are no schedules.\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--cron=30 0 2 * * *"], "5 fields, without seconds"),
        (["--latest"], "--latest is an option for Kubeflow; got --target=vertex"),
        (["--catchup"], "`resume --catchup`"),
    ],
)
def test_option_that_vertex_does_not_support_is_an_error(server, plan, words, message):
    with pytest.raises(SystemExit, match=message):
        plan(*NIGHTLY, *words)
    assert server.items == {}
