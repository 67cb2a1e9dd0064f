"""No secret is printed, wherever it is and whatever a server does with it."""

import json
import re
import threading
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from google.auth.exceptions import GoogleAuthError

from pipeline import redaction
from pipeline.__main__ import main
from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow import follow
from pipeline.kubeflow.connection import ConnectionConfig, resolve
from trainer.common.errors import without_traceback

SECRET = "pl4nted+s3cret/value=="
PARAMETERS = ["train_data=gs://b/train*", "eval_data=gs://b/eval*", "output_dir=gs://b/out"]
# The parts by which a secret that is broken or encoded would be recognized.
TRACES = re.compile("pl4nted|s3cret|cGw0bnRlZ")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for field in fields(ConnectionConfig):
        monkeypatch.delenv(str(field.metadata["envvar"]), raising=False)
    monkeypatch.setattr(kubeflow, "BACKOFF_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)


class Echo(BaseHTTPRequestHandler):
    """A server that refuses each request and repeats all of it."""

    status = 400
    page = False
    offset = 0  # characters before the echo, which moves the end of a shortened text

    def _refuse(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        credentials = [self.headers.get("Authorization"), self.headers.get("Cookie")]
        echo = f"{'.' * self.offset}{credentials} {unquote(self.path)} {self.headers} {body}"
        text = f"<title>{echo}</title>" if self.page else json.dumps({"message": echo})
        self.send_response(self.status, "Refused")
        self.send_header("Content-Type", "text/html" if self.page else "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = do_HEAD = _refuse

    def log_message(self, *_):
        pass


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(Echo, "status", 400)
    monkeypatch.setattr(Echo, "page", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def output(capfd, compiled):
    """A function that runs a command with a planted secret; returns the exit code and output."""

    def output(command, *words):
        action = ["list"] if command == "schedule list" else []
        parameters = [] if action else PARAMETERS
        options = ["--cron=0 2 * * *"] if command == "schedule" else []
        pipeline = f"--pipeline={compiled['kubeflow']}"
        argv = [command.split()[0], *action, pipeline, *options, *parameters, *words]
        with pytest.raises(SystemExit) as exit:
            main(argv)
        said = capfd.readouterr()
        return exit.value.code, f"{said.out}{said.err}{exit.value.code}"

    return output


COMMANDS = ["submit", "schedule", "schedule list", "doctor"]
PLACES = ["token", "cookie", "token_file"]


def plant(place: str, source: str, value: str, monkeypatch, tmp_path) -> list[str]:
    """Put a secret where a user may put it; return the options for this."""
    if place == "token_file":
        (tmp_path / "token").write_text(value)
        value = "token"
    if source == "option":
        return [f"--{place}={value}"]
    if source == "environment":
        names = {field.name: field.metadata["envvar"] for field in fields(ConnectionConfig)}
        monkeypatch.setenv(names[place], value)
    else:
        (tmp_path / "kubeflow.toml").write_text(f"{place} = {json.dumps(value)}")
    return []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("source", ["option", "environment", "file"])
def test_server_that_echoes_credentials(output, echo, place, source, monkeypatch, tmp_path):
    value = f"a=1; session={SECRET}" if place == "cookie" else SECRET
    options = plant(place, source, value, monkeypatch, tmp_path)
    for command in COMMANDS:
        code, text = output(command, f"--host={echo}", *options)
        assert code != 0
        assert "***" in text
        assert not TRACES.search(text), text


@pytest.mark.parametrize("status", [401, 403, 500])
@pytest.mark.parametrize("page", [False, True])
def test_answer_of_any_status_and_type_is_redacted(output, echo, status, page, monkeypatch):
    monkeypatch.setattr(Echo, "status", status)
    monkeypatch.setattr(Echo, "page", page)
    _, text = output("submit", f"--host={echo}", f"--token={SECRET}")
    assert not TRACES.search(text), text


def test_shortened_text_ends_with_no_part_of_a_secret(output, echo, monkeypatch):
    for offset in range(360, 400, 3):
        monkeypatch.setattr(Echo, "offset", offset)
        _, text = output("schedule list", f"--host={echo}", f"--token={SECRET}")
        assert not TRACES.search(text), text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("source", ["option", "environment", "file"])
def test_line_break_in_a_secret(output, echo, place, source, monkeypatch, tmp_path):
    options = plant(place, source, "pl4nted\ns3cret", monkeypatch, tmp_path)
    for command in COMMANDS:
        code, text = output(command, f"--host={echo}", *options)
        assert code != 0
        assert f"{place} must" in text
        assert "Traceback" not in text
        assert not TRACES.search(text), text


@pytest.mark.parametrize("host", ["http://me:pl4nted@{}", "http://{}/?token=s3cret"])
@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_password_and_query_in_the_host(output, echo, host, dry_run):
    host = host.format(echo.removeprefix("http://"))
    for command in COMMANDS:
        code, text = output(command, f"--host={host}", *dry_run)
        assert code != 0
        assert "host must have no user, password or query" in text
        assert not TRACES.search(text), text


@pytest.mark.parametrize(
    "words",
    [
        [f"--host={SECRET}"],
        [f"--ui-host={SECRET}"],
        [f"--token-file={SECRET}"],
        [f"--ca-file={SECRET}"],
        [f"--token{SECRET}"],
        ["--token", "right", SECRET],
        [f"{SECRET}=="],
        [f"num_epochs={SECRET}", f"--token={SECRET}"],
        [f"run_name={SECRET}", f"--token={SECRET}", "--dry-run"],
    ],
)
def test_misplaced_secret(output, echo, words):
    for command in ("submit", "schedule", "doctor"):
        _, text = output(command, f"--host={echo}", *words)
        assert "Traceback" not in text
        assert not TRACES.search(text), text


def test_secret_of_a_client_of_identity_aware_proxy(output, echo, monkeypatch):
    def refuse(*ids):
        raise GoogleAuthError(f"refused {ids}")

    monkeypatch.setattr("kfp.client.auth.get_auth_token", refuse)
    options = ["--iap-client-id=a", "--iap-app-client-id=b", f"--iap-app-client-secret={SECRET}"]
    _, text = output("submit", f"--host={echo}", *options)
    assert "refused ('a', 'b', '***')" in text


def test_token_that_changes_while_a_run_is_followed(echo, tmp_path):
    (tmp_path / "token").write_text("first-token")
    with pytest.raises(SystemExit) as exit, redaction.redacted_output(), without_traceback():
        connection = resolve(ConnectionConfig(host=echo, token_file="token"))
        client = kubeflow.connect(connection)
        (tmp_path / "token").write_text(SECRET)
        with kubeflow.explained(connection):
            follow.follow(client, connection, "run", {}, 60)
    assert "Bearer ***" in exit.value.code
    assert not TRACES.search(exit.value.code)


def test_log_record_and_traceback(monkeypatch, capfd):
    def fail(*_):
        import logging

        logging.getLogger("test").error("token %s", SECRET)
        raise RuntimeError(SECRET)

    monkeypatch.setattr("pipeline.submit.prepare", fail)
    with pytest.raises(SystemExit):
        main(["submit", f"--token={SECRET}"])
    err = capfd.readouterr().err
    assert "RuntimeError: ***" in err
    assert not TRACES.search(err), err


@pytest.mark.parametrize(
    "text, expected",
    [
        ("https://me:pw@host/a", "https://***@host/a"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: Bearer ***"),
        ("eyJhbGciOiJSUzI1.eyJpc3MiOiJr.c2ln-_x", "***"),
        ("gs://bucket/file@2", "gs://bucket/file@2"),
        ("host/image@sha256:0123", "host/image@sha256:0123"),
    ],
)
def test_credentials_are_recognized(text, expected):
    assert redaction.redact(text) == expected


def test_short_secret_is_not_replaced_within_words():
    redaction.register("run")
    assert redaction.redact("running") == "running"
