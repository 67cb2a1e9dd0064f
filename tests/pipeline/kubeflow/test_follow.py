"""Following a run, by what a Kubeflow Pipelines 2.17.0 answered, as recorded in recorded/."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kfp_server_api import ApiClient

from pipeline.kubeflow import follow
from pipeline.kubeflow.connection import ConnectionConfig

RECORDED = Path(__file__).parents[1] / "recorded"
STEPS = {
    "validate-data": "Validate data",
    "train": "Train",
    "evaluate": "Evaluate",
    "gate": "Gate",
    "export-model": "Export model",
    "publish": "Publish",
    "summary": "Summary",
}


def answer(name: str):
    return json.loads((RECORDED / f"{name}.json").read_text())["body"]


def parsed(kind: str, body: dict):
    """The body as kfp's client parses it."""

    class Response:
        data = json.dumps(body)

    return ApiClient().deserialize(Response(), kind)


class Client:
    """Answers with recordings: the runs one after the other, and one log."""

    def __init__(self, *runs: str, log: str = ""):
        self.answers = [parsed("V2beta1Run", answer(run)) for run in runs]
        self.log, self.asked = log, []
        self.runs = self.api_client = self

    def get_run(self, run_id):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def call_api(self, path, method, **_):
        self.asked.append(path)
        return self.log


def states(name: str, order: int = 1) -> dict[str, str]:
    run = parsed("V2beta1Run", answer(name))
    run.run_details.task_details = run.run_details.task_details[::order]
    return {step.name: step.state for step in follow.started_steps(run, STEPS)}


@pytest.mark.parametrize(
    "name, state, code",
    [
        ("run_published", "SUCCEEDED", 0),
        ("run_rejected", "SUCCEEDED", 0),
        ("run_failed_in_validation", "FAILED", 1),
        ("run_cancelled_while_training", "CANCELED", 3),
        ("run_running", "RUNNING", None),
        ("run_pending_unschedulable", "RUNNING", None),
        ("run_orphaned_by_deleted_schedule", "RUNNING", None),
    ],
)
def test_final_state_of_each_recorded_run(name, state, code):
    run = parsed("V2beta1Run", answer(name))
    assert follow.state(run) == state
    assert follow.EXIT_CODES.get(follow.state(run)) == code


@pytest.mark.parametrize("name", ["run_pending_unschedulable", "run_rejected"])
def test_the_order_of_the_tasks_does_not_matter(name):
    assert states(name, -1) == states(name, 1)


def test_the_steps_of_each_run():
    done = dict.fromkeys(STEPS, "SUCCEEDED")
    assert states("run_published") == done
    rejected = {name: state for name, state in done.items() if name[:2] not in ("ex", "pu")}
    assert states("run_rejected") == rejected | {"train": "CACHED"}
    assert states("run_failed_in_validation") == {"validate-data": "FAILED", "summary": "SUCCEEDED"}
    assert states("run_cancelled_while_training") == {
        "validate-data": "SUCCEEDED",
        "train": "FAILED",
        "summary": "SUCCEEDED",
    }
    assert states("run_pending_unschedulable") == {
        "validate-data": "SUCCEEDED",
        "train": "WAITING",
    }


def test_unfinished_task_has_no_end_time():
    run = parsed("V2beta1Run", answer("run_pending_unschedulable"))
    assert run.run_details.task_details[1].end_time.year == 1  # as the server says
    train = list(follow.started_steps(run, STEPS))[-1]
    assert train.ended is None
    assert train.started == datetime(2026, 11, 25, 8, 42, 6, tzinfo=UTC)


class Clock(datetime):
    """A clock that is read once each time the run is looked at."""

    minutes = iter(())

    @classmethod
    def now(cls, tz=None):
        return datetime(2026, 11, 25, 8, 42 + next(cls.minutes), 10, tzinfo=UTC)


def test_waiting_step_shows_its_needs_and_duration(monkeypatch, capsys):
    monkeypatch.setattr(follow, "POLL_SECONDS", 0)
    monkeypatch.setattr(follow, "datetime", Clock)
    Clock.minutes = iter([0, 0, 1, 2, 3, 5, 6, 9])
    client = Client(*["run_pending_unschedulable"] * 7, "run_cancelled_while_training")
    needs = {"train": "1 x nvidia.com/gpu"}
    explained = []

    def explain() -> str:
        explained.append(True)
        return "Nodes: no node has a GPU."

    run = follow.follow(client, ConnectionConfig(), "run", STEPS, 60, needs, explain)
    assert follow.state(run) == "CANCELED"
    lines = capsys.readouterr().out.splitlines()
    pending = "08:42:06  Train          pending"
    waiting = "08:42:06  Train          waiting for a node with 1 x nvidia.com/gpu"
    assert [line for line in lines if "Train" in line or "Nodes" in line] == [
        pending,
        f"{waiting} (1 min)",
        f"{waiting} (2 min)",
        f"{waiting} (5 min)",
        "Nodes: no node has a GPU.",
        "08:04:01  Train          failed after 0 min 41 s",
    ]
    assert explained == [True]


def test_failed_steps_message_is_shown():
    log = answer("node_log_of_failed_step")
    client = Client("run_failed_in_validation", log=log)
    run = client.get_run("")
    step, why = follow.failure(client, run, STEPS)
    assert step == "Validate data"
    assert why == "No file matches '/data/video/nothing*.tfrecord'; expected at least one."
    assert client.asked == [
        "/apis/v1alpha1/runs/d74114d5-62a7-49de-ab79-efd691eefa57/nodes/"
        "yt8m-pipeline-csjsq-3992769959/log"
    ]


def test_failed_run_without_a_log_names_its_step():
    client = Client("run_failed_in_validation", log="")
    assert follow.failure(client, client.get_run(""), STEPS) == ("Validate data", "")


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("run_*.json")))
def test_every_recorded_run_is_parsed(name):
    body = answer(name)
    if "run_id" in body:
        run = parsed("V2beta1Run", body)
        assert run.run_id == body["run_id"] and run.state == body["state"]
        list(follow.started_steps(run, STEPS))
