"""The commands and the stand-in server, held to what a Kubeflow Pipelines 2.17.0 answered."""

import json
import re
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from pipeline.__main__ import main
from tests.pipeline.kubeflow_server import ID

RECORDED = Path(__file__).parents[1] / "recorded"
ANSWERS = {path.stem: json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))}
REFUSALS = ANSWERS.pop("refusals")
REFUSED = {name: answer for name, answer in ANSWERS.items() if answer["status"] != 200}
RUNS = {name: answer["body"] for name, answer in ANSWERS.items() if "run_id" in answer["body"]}
LISTS = {
    "pipelines": ("pipelines", "pipelines"),
    "pipeline_versions_page1": ("versions", "pipeline_versions"),
    "experiments": ("experiments", "experiments"),
    "recurring_runs": ("recurringruns", "recurringRuns"),
    "runs_page1": ("runs", "runs"),
}
PARAMETERS = ["train_data=gs://b/train*", "eval_data=gs://b/eval*", "output_dir=gs://b/out"]
LAST_LINE = {
    "run_published": "The run succeeded.",
    "run_rejected": "The run succeeded.",
    "run_failed_in_validation": "Run: ",
    "run_cancelled_while_training": "The run was canceled.",
    "run_running": "error: The run continues",
    "run_pending_unschedulable": "error: The run continues",
    "run_orphaned_by_deleted_schedule": "error: The run continues",
}


@pytest.fixture
def run(server, compiled, capsys):
    """Run a command; return its exit code, output and errors."""

    def run(command, *words):
        flags = [f"--host={server.url}", f"--pipeline={compiled['kubeflow']}"]
        try:
            main([command, *words, *flags])
            code = 0
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        return (1, out, code) if isinstance(code, str) else (code or 0, out, err)

    return run


@pytest.fixture
def server_of_recordings(server):
    """The server, with everything that the real one listed."""
    for name, (kind, key) in LISTS.items():
        for item in ANSWERS[name]["body"][key]:
            server.items[kind][item[ID[kind]]] = {"inputs": {}, **item}
    return server


def test_every_recording_is_used():
    used = {*RUNS, *REFUSED, *LISTS, "healthz", "node_log_of_failed_step", "recurring_run"}
    assert set(ANSWERS) == used
    assert set(LAST_LINE) == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_each_recorded_run_is_followed_to_its_end(server, run, name):
    server.script = [RUNS[name]]
    server.logs["yt8m-pipeline-csjsq-3992769959"] = ANSWERS["node_log_of_failed_step"]["body"]
    code, out, err = run("submit", "--wait", "--timeout=0.00001", *PARAMETERS)
    assert (out + err).splitlines()[-1].startswith(LAST_LINE[name])
    expected = {"The run succeeded.": 0, "Run: ": 1, "The run was canceled.": 3}
    assert code == expected.get(LAST_LINE[name], 124)
    assert "00:00:00" not in out


def test_user_error_was_not_retried():
    tasks = RUNS["run_failed_in_validation"]["run_details"]["task_details"]
    tries = [task for task in tasks if task.get("display_name", "").startswith("executor(")]
    assert {task["display_name"] for task in tries} == {"executor(0)"}
    assert sorted(task["state"] for task in tries) == ["FAILED", "SUCCEEDED"]  # validation, summary


def test_failed_run_shows_the_failed_steps_error(server, run):
    server.script = [RUNS["run_failed_in_validation"]]
    server.logs["yt8m-pipeline-csjsq-3992769959"] = ANSWERS["node_log_of_failed_step"]["body"]
    _, _, err = run("submit", "--wait", *PARAMETERS)
    assert err.startswith("error: Validate data failed: No file matches '/data/video/nothing*")


@pytest.mark.parametrize("name", REFUSED)
def test_recorded_refusals_show_the_servers_message(server, run, name):
    answer = REFUSED[name]
    kind, path = ("pipelines", "pipelines$") if "pipeline" in name else ("runs", "/runs$")
    command, words = "submit", PARAMETERS
    if "recurring" in name:
        kind, path = "recurringruns", "recurringruns$"
        command, words = "schedule", ["--cron=0 2 * * *", *PARAMETERS]
    server.faults = [("POST", path, answer)] * 9
    code, _, err = run(command, *words)
    assert code == 1
    assert err.startswith("error: ")
    assert answer["body"]["message"][:300] in " ".join(err.split())
    assert server.items[kind] == {}


def test_submit_among_what_a_real_server_lists(server_of_recordings, run):
    server = server_of_recordings
    before = {kind: len(items) for kind, items in server.items.items()}
    assert run("submit", *PARAMETERS)[0] == 0
    made = {kind: len(items) - before[kind] for kind, items in server.items.items()}
    # The pipeline and the experiment are there; its code has changed since.
    assert made == {"pipelines": 0, "experiments": 0, "versions": 1, "runs": 1, "recurringruns": 0}


def test_schedules_of_a_real_server_are_listed_changed_and_deleted(server_of_recordings, run):
    server = server_of_recordings
    name = "--name=nightly-recorded"
    _, out, _ = run("schedule", "list")
    assert out == "nightly-recorded         on       At 02:00 every day (UTC)\n"
    assert run("schedule", "pause", name)[0] == 0
    assert server.only("recurringruns")["status"] == "DISABLED"
    assert (
        "(updated, paused as before)" in run("schedule", name, "--cron=0 2 * * *", *PARAMETERS)[1]
    )
    assert run("schedule", "delete", name)[0] == 0
    assert server.items["recurringruns"] == {}


def test_doctor_understands_the_answers_of_a_real_server(server_of_recordings, run):
    server_of_recordings.faults = [("GET", "healthz", ANSWERS["healthz"])]
    _, out, _ = run("doctor", *PARAMETERS)
    marks = {line[6:19].strip(): line[:5].strip() for line in out.splitlines()}
    assert (marks["Host"], marks["Access"]) == ("ok", "ok")
    assert server_of_recordings.faults == []


# The stand-in itself.


@pytest.fixture
def filled(server, run, compiled):
    """Placeholder of the refusals -> what it stands for on the server, which has one of each."""
    assert run("submit", *PARAMETERS)[0] == 0
    version = server.only("versions")
    server.only("experiments")["display_name"] = "Default"
    return {
        "{pipeline}": version["pipeline_id"],
        "{version}": version["pipeline_version_id"],
        "{version name}": version["name"],
        "{experiment}": server.only("experiments")["experiment_id"],
        "{compiled}": compiled["kubeflow"].read_text(),
    }


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal["title"])
def test_the_stand_in_refuses_what_the_real_server_refuses(server, filled, refusal):
    def fill(text: str) -> str:
        return re.sub(r"\{[a-z ]+\}", lambda match: filled[match[0]], text)

    sent, kind = refusal["sent"], "application/json"
    if isinstance(sent, dict):
        sent = json.dumps(sent, separators=(",", ":"))
    content = sent and fill(sent)
    if "upload" in refusal["path"]:
        kind = "multipart/form-data; boundary=b"
        head = 'Content-Disposition: form-data; name="uploadfile"; filename="p.yaml"'
        content = f"--b\r\n{head}\r\n\r\n{content}\r\n--b--\r\n"
    path = fill(refusal["path"]).replace(" ", "%20")
    request = Request(
        server.url + path,
        method=refusal["method"],
        data=content and content.encode(),
        headers={"Content-Type": kind},
    )
    try:
        response = urlopen(request)
    except HTTPError as error:
        response = error
    text = response.read().decode()
    is_json = refusal["content_type"] == "application/json"
    assert response.status == refusal["status"]
    assert response.headers["Content-Type"] == refusal["content_type"]
    assert (json.loads(text) if is_json else text) == refusal["body"]


def test_the_stand_in_answers_with_the_fields_of_the_real_server(server, run):
    assert run("schedule", "--cron=0 2 * * *", *PARAMETERS)[0] == 0
    assert run("submit", *PARAMETERS)[0] == 0
    made = server.only("recurringruns")
    recorded = ANSWERS["recurring_run"]["body"]
    assert set(recorded) - set(made) == {"updated_at"}
    assert {name: type(made[name]) for name in made} == {
        name: type(recorded[name]) for name in made
    }
    made = server.only("runs")
    optional = {"run_details", "state_history", "plugins_output", "scheduled_at"}
    assert set(RUNS["run_published"]) - set(made) == optional
