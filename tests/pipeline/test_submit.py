import os
import re
import subprocess
import sys

import pytest

from pipeline.__main__ import main
from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow import follow
from pipeline.paths import ROOT
from tests.pipeline.kubeflow_server import task

PARAMETERS = ["train_data=gs://b/train*", "eval_data=gs://b/eval*", "output_dir=gs://b/out"]


@pytest.fixture
def run(server, compiled, capsys):
    """Run the command; return its exit code, output and errors."""

    def run(*words, parameters=PARAMETERS):
        argv = ["submit", f"--host={server.url}", f"--pipeline={compiled['kubeflow']}"]
        with pytest.raises(SystemExit) as exit:
            main([*argv, *parameters, *words])
        said = capsys.readouterr()
        if isinstance(exit.value.code, str):  # as Python would do it
            return 1, said.out, exit.value.code
        return exit.value.code, said.out, said.err

    return run


def test_first_submission_creates_pipeline_version_experiment_and_run(server, run, compiled):
    code, out, err = run()
    assert (code, err) == (0, "")
    pipeline, version = server.only("pipelines"), server.only("versions")
    assert pipeline["display_name"] == "yt8m-pipeline"
    assert "- `train_data`: " in pipeline["description"]
    assert version["text"] == compiled["kubeflow"].read_text()
    assert version["description"] == "Images: yt8m-data:0.1.0, yt8m-trainer:0.1.0"
    assert server.only("experiments")["display_name"] == "yt8m-pipeline"
    sent = server.only("runs")
    assert re.fullmatch(r"LogisticModel-b-\d{8}-\d{6}", sent["display_name"])
    assert sent["pipeline_version_reference"] == {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert sent["runtime_config"] == {"parameters": dict(p.split("=") for p in PARAMETERS)}
    assert f"{server.url}/#/runs/details/{sent['run_id']}" in out
    assert f"{version['display_name']} (uploaded)" in out


def test_second_submission_is_a_new_run_of_the_same_version(server, run):
    run()
    code, out, _ = run()
    assert code == 0
    assert "(exists)" in out
    counts = {kind: len(items) for kind, items in server.items.items()}
    assert counts == {
        "pipelines": 1,
        "versions": 1,
        "experiments": 1,
        "runs": 2,
        "recurringruns": 0,
    }


def test_other_pipelines_and_versions_are_found_on_later_pages_and_left_unchanged(server, run):
    for name in ("yt8m-pipeline-2", "another", "yt8m"):
        server.create("pipelines", {"name": name, "display_name": name})
    run()
    for number in range(5):
        ours = list(server.items["pipelines"])[-1]
        server.put("versions", {"pipeline_id": ours, "display_name": f"version-{number}"})
    run()
    assert len(server.items["pipelines"]) == 4
    assert len(server.items["versions"]) == 6


def test_version_name_contains_the_commit_and_a_digest(server, run, compiled, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(
        compiled["kubeflow"].read_text().replace("maxRetryCount: 3", "maxRetryCount: 4")
    )
    run()
    run(f"--pipeline={changed}")
    names = [version["display_name"] for version in server.items["versions"].values()]
    assert len(set(names)) == 2
    commits = {name.rsplit("-", 1)[0] for name in names}
    assert len(commits) == 1
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    head = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    if head.returncode == 0:
        assert commits.pop().removesuffix("-dirty") == head.stdout.strip()


def test_no_cache_trains_a_new_model(server, run):
    run("--no-cache")
    run()
    assert len(server.items["versions"]) == 1
    first, second = (run["runtime_config"]["parameters"] for run in server.items["runs"].values())
    assert first["reuse_training"] is False
    assert "reuse_training" not in second


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_parameters_come_from_a_file_and_then_from_the_command_line(server, run, suffix, tmp_path):
    lines = {"train_data": '"a"', "num_epochs": "3", "gate_min_gap": "1", "frame_features": "true"}
    file = tmp_path / f"nightly{suffix}"
    mark = " = " if suffix == ".toml" else ": "
    lines["model"] = '"FrameLevelLogisticModel"'
    file.write_text("\n".join(name + mark + value for name, value in lines.items()))
    given = ["-p", "eval_data=b=c", "-p", "output_dir=d", "-p", "num_epochs=4"]
    assert run("--params", str(file), *given, parameters=[])[0] == 0
    assert server.only("runs")["runtime_config"]["parameters"] == {
        "train_data": "a",
        "eval_data": "b=c",
        "output_dir": "d",
        "num_epochs": 4,
        "gate_min_gap": 1.0,
        "frame_features": True,
        "model": "FrameLevelLogisticModel",
    }


@pytest.mark.parametrize(
    "words, message",
    [
        (["num_epoch=3"], "There is no parameter 'num_epoch'. Did you mean num_epochs=...?"),
        (["gate_min_gap=2"], "gate_min_gap must be from 0 to 1"),
        (["num_epochs=x"], "num_epochs must be an integer; got 'x'"),
        (["--params=nothing.toml"], "The parameter file nothing.toml cannot be read"),
        (["--pipeline=nothing.yaml"], "Cannot read the compiled pipeline"),
        (
            ["--target=mars"],
            "Invalid value for '--target': 'mars' is not one of 'kubeflow'",
        ),
        (["--host=localhost"], "host must begin with http:// or https://"),
        (["--token=a", "--token_file=/dev/null"], "Give a token or a token_file"),
        (["--ca_file=nothing.pem"], "ca_file cannot be read"),
    ],
)
def test_mistake_is_an_error_before_a_request(server, run, words, message):
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert server.requests == []


def test_missing_parameter_is_an_error(server, run):
    _, _, err = run(parameters=["train_data=x"])
    assert err.startswith("error: Required parameters are missing: eval_data, output_dir")
    assert server.requests == []


def test_dry_run_sends_nothing_and_hides_secrets(server, run):
    code, out, _ = run("--dry-run", "--token=abc123", "num_epochs=7")
    assert code == 0
    assert server.requests == []
    assert "num_epochs = 7\n" in out
    assert "batch_size = 1024  (default)\n" in out
    assert "token:           (set)\n" in out
    assert "abc123" not in out


def test_help_does_not_load_kfp():
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline", "submit", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "--wait" in ran.stdout
    assert " kfp\n" not in ran.stderr


# Errors of the server and the network.


@pytest.mark.parametrize("kind", ["pipelines$", "upload_version$", "experiments$", "runs$"])
@pytest.mark.parametrize("fault", ["lost", 503])
def test_everything_is_created_once_when_an_answer_is_lost(server, run, kind, fault):
    server.faults = [("POST", kind, fault)]
    assert run()[0] == 0
    assert server.faults == []
    assert [len(items) for items in server.items.values()] == [1, 1, 1, 1, 0]


def test_version_that_another_client_creates_is_used(server, run):
    run()
    looked = server._list
    empty_first = iter([True, False])

    def look(kind, query, pipeline_id=""):
        if kind == "versions" and next(empty_first, False):
            return {}
        return looked(kind, query, pipeline_id)

    server._list = look  # ours does not see yet what is there: making it is a conflict
    assert run()[0] == 0
    assert len(server.items["versions"]) == 1


def test_get_requests_are_retried(server, run):
    server.faults = [("GET", "pipelines$", 502), ("GET", "pipelines$", 429)]
    assert run()[0] == 0
    assert server.faults == []


def test_persistent_server_error_shows_the_servers_message(server, run):
    server.faults = [("POST", "/runs$", 500)] * 9
    code, _, err = run()
    assert code == 1
    assert err == f"error: {server.url} failed 5 times (500).\n  out of order"
    assert len(server.faults) == 4


def test_refused_request_is_not_retried(server, run):
    server.faults = [("POST", "/runs$", 403)]
    code, _, err = run()
    assert code == 1
    assert err.startswith(f"error: {server.url} denies permission (403). Check --namespace")


def test_request_timeout_is_an_error(server, run, monkeypatch):
    monkeypatch.setattr(kubeflow, "ANSWER_SECONDS", 0.05)
    server.faults = [("GET", "pipelines$", 0.2)] * 9
    code, _, err = run()
    assert code == 1
    assert err.startswith(f"error: {server.url} did not answer in time: Read timed out")


def test_unreachable_host_is_an_error(run):
    code, _, err = run("--host=http://127.0.0.1:1")
    assert code == 1
    assert err == (
        "error: http://127.0.0.1:1 cannot be reached: "
        "Failed to establish a new connection: [Errno 111] Connection refused."
    )


# Authentication.


def test_token_is_sent_and_never_shown(server, run, monkeypatch, tmp_path):
    server.token = "secret-token"
    for setting in ("flag", "environment", "file", "token_file"):
        words = []
        if setting == "flag":
            words = ["--token=secret-token"]
        elif setting == "environment":
            monkeypatch.setenv("KF_PIPELINES_TOKEN", "secret-token")
        elif setting == "file":
            monkeypatch.delenv("KF_PIPELINES_TOKEN")
            (tmp_path / "kubeflow.toml").write_text('token = "secret-token"')
        else:
            (tmp_path / "kubeflow.toml").unlink()
            (tmp_path / "token").write_text("secret-token")
            words = ["--token_file=token"]
        code, out, err = run(*words)
        assert (code, err) == (0, ""), setting
        assert "secret-token" not in out


def test_missing_token_is_an_error_with_a_hint(server, run):
    server.token = "secret-token"
    code, _, err = run()
    assert code == 1
    assert "requires valid credentials (401); give a token" in err
    assert "there is no user identity" in err
    assert "they may have expired" in run("--token=older")[2]


def test_login_page_is_recognized(server, run):
    server.token, server.login = "secret-token", True
    code, out, err = run("--cookie=oauth2_proxy_kubeflow=expired-cookie")
    assert code == 1
    assert 'answers with a web page instead of data, titled "Sign in | Dex"' in err
    assert "a newer one if it has expired" in err
    assert "do-not-print-this" not in out + err
    assert "expired-cookie" not in out + err


def test_namespace_is_part_of_the_requests(server, run):
    server.multi_user = True
    run("--namespace=team-a")
    assert server.only("experiments")["namespace"] == "team-a"
    assert server.only("pipelines")["namespace"] == "team-a"
    run("--namespace=team-a")
    assert len(server.items["experiments"]) == 1


# Following a run.


@pytest.mark.parametrize(
    "state, code, words",
    [
        ("SUCCEEDED", 0, "The run succeeded."),
        ("FAILED", 1, "The run failed."),
        ("SKIPPED", 2, "The run was skipped."),
        ("CANCELED", 3, "The run was canceled."),
    ],
)
def test_exit_code_of_each_final_state(server, run, state, code, words):
    # A cancelled run ends as FAILED; only its history contains CANCELING.
    states = ["PENDING", "RUNNING", "PAUSED"]
    states += ["CANCELING", "FAILED"] if state == "CANCELED" else [state]
    server.script = [{"state": now} for now in states]
    ended, out, _ = run("--wait")
    assert ended == code
    assert words in out


def test_every_state_is_final_or_not():
    from kfp_server_api import V2beta1RuntimeState

    going_on = {"RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED"}
    assert set(V2beta1RuntimeState.allowable_values) == going_on | set(follow.EXIT_CODES)


def test_changes_of_the_steps_states_are_shown(server, run):
    validating = task("validate-data", "RUNNING", 0)
    validated = task("validate-data", "SUCCEEDED", 0, 61)
    server.script = [
        {"state": "PENDING"},
        {"state": "RUNNING", "tasks": [task("root", "RUNNING"), validating]},
        {"state": "RUNNING", "tasks": [validating, task("validate-data-driver", "RUNNING")]},
        {"state": "RUNNING", "tasks": [task("train", "PENDING", 62), validated]},
        {"state": "RUNNING", "tasks": [validated, task("train", "RUNNING", 62)]},
        {"state": "SUCCEEDED", "tasks": [validated, task("train", "SUCCEEDED", 62, 3662)]},
    ]
    _, out, _ = run("--wait")
    assert out.splitlines()[4:] == [
        "12:00:00  Validate data  running",
        "12:01:01  Validate data  succeeded after 1 min 1 s",
        "12:01:02  Train          pending",
        "12:01:02  Train          running",
        "13:01:02  Train          succeeded after 60 min 0 s",
        "The run succeeded.",
    ]


def test_failed_step_is_named_with_its_message(server, run):
    executor = task("executor", "FAILED", 1, 4, child_tasks=[{"pod_name": "node-0"}])
    train = task("train", "FAILED", 0, 5)
    server.script = [
        {"state": "FAILED", "tasks": [task("summary", "SUCCEEDED", 6, 7), executor, train]}
    ]
    server.logs["node-0"] = "step 100: loss 12.3\nerror: The loss is NaN at step 101.\n"
    code, _, err = run("--wait", "--namespace=team-a")
    assert code == 1
    run_id = server.only("runs")["run_id"]
    assert err == (
        "error: Train failed: The loss is NaN at step 101.\n"
        f"Run: {server.url}/#/runs/details/{run_id}\n"
    )


def test_step_log_is_read_through_the_ui(server, run):
    executor = task("executor", "FAILED", 1, 4, child_tasks=[{"pod_name": "yt8m-abcde-12"}])
    server.script = [{"state": "FAILED", "tasks": [executor, task("train", "FAILED", 0, 5)]}]
    server.is_ui = True
    server.logs["yt8m-abcde-12"] = (
        "ValueError: no\n"
        'time=2026-11-25T15:27:00.403Z level=INFO msg="sub-process exited" argo=true error="exit '
        'status 1"\nError: exit status 1\n'
    )
    assert run("--wait")[2].startswith("error: Train failed: ValueError: no\nRun: ")


def test_failed_step_without_a_log_is_named(server, run):
    executor = task("executor", "FAILED", 1, 4, child_tasks=[{"pod_name": "node-0"}])
    server.script = [{"state": "FAILED", "tasks": [executor, task("train", "FAILED", 0, 5)]}]
    _, _, err = run("--wait")
    assert err.startswith("error: Train failed.\nRun: ")


def test_failed_run_without_task_details_is_linked(server, run):
    server.script = [{"state": "FAILED"}]
    _, _, err = run("--wait", "--ui_host=https://kubeflow.example/pipeline/")
    run_id = server.only("runs")["run_id"]
    link = f"https://kubeflow.example/pipeline/#/runs/details/{run_id}"
    assert err == f"error: The run failed.\nRun: {link}\n"


def test_following_ends_at_the_timeout(server, run):
    server.script = [{"state": "RUNNING"}]
    code, _, err = run("--wait", "--timeout=0.00001")
    assert code == 124
    assert "The run continues" in err


def test_following_survives_an_outage_of_the_server(server, run):
    server.script = [{"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    server.faults = [("GET", "/runs/", 503)] * 12 + [("GET", "/runs/", "lost")]
    code, _, _ = run("--wait")
    assert code == 0
    assert server.faults == []


def test_token_that_expires_while_following_is_an_error(server, run):
    server.script = [{"state": "RUNNING"}]
    server.faults = [("GET", "/runs/", 401)]
    code, _, err = run("--wait", "--token=x")
    assert code == 1
    assert "they may have expired" in err


def test_token_for_iap_is_renewed_when_it_expires(server, run, monkeypatch):
    tokens = ["first", "second", "third"]
    monkeypatch.setattr("kfp.client.auth.get_auth_token", lambda *_: (tokens.pop(0), False))
    server.token = "first"
    server.script = [{"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    answer = server.answer

    def answer_and_expire(method, path, query, content):
        if "/runs/" in path:
            server.token = "second"
        return answer(method, path, query, content)

    server.answer = answer_and_expire
    code, _, _ = run("--wait", "--iap_client_id=client")
    assert code == 0
    assert tokens == ["third"]


def test_interrupted_command_says_that_the_run_continues(server, run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "follow", interrupt)
    code, _, err = run("--wait")
    assert code == 130
    assert "The run continues" in err


def test_kfps_own_settings_are_not_written(server, run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run()
    assert not os.path.exists(tmp_path / "home")
