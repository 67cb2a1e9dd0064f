"""Training with --train_dir=gs://...: nothing is lost, whatever happens to trainer and network."""

import contextlib
import dataclasses
import http.client
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.paths import ROOT
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.evaluation import evaluator
from trainer.run_dir import mirror, working_dir
from trainer.training.loop import train

# The trainer's command, where nobody waits long for a trainer that was killed.
TRAIN = """
import sys
from trainer import train
from trainer.run_dir import mirror
mirror.LEASE_SECONDS, mirror.RENEW_SECONDS, mirror.POLL_SECONDS = 3, 0.5, 0.1
train.main(["trainer/train.py", *sys.argv[1:]])
"""


@pytest.fixture
def remote_config(make_config, gcs_bucket, tmp_path, monkeypatch):
    """remote_config(**flags): a small training run, saved in a bucket."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def make(**flags):
        return make_config(**{"train_dir": f"{gcs_bucket}/model"} | flags)

    return make


@pytest.fixture
def never_killed(make_config, weights):
    """never_killed(config): the weights that the same training gives in a local folder."""

    def run(config):
        local = make_config().train_dir
        train(dataclasses.replace(config, train_dir=local))
        return weights(local)

    return run


def assert_same(train_dir: str, weights, expected):
    """The newest weights of a remote train_dir, bit for bit."""
    with mirror.local_copy(train_dir) as local:
        found = weights(local)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.tobytes() == expected[name].tobytes(), name


@contextlib.contextmanager
def trainer(config, machine: Path, **environment) -> Iterator[subprocess.Popen]:
    """The trainer's process on a machine with an own temporary folder. Killed afterwards."""
    machine.mkdir(exist_ok=True)
    flags = dataclasses.asdict(config).items()
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, *(f"--{k}={v}" for k, v in flags if v is not None)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(machine)} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen, text: str, times: int = 1) -> bool:
    """Reads the log until `text` came that often. False: the process ended before."""
    for line in process.stderr:
        print(line, end="")
        times -= text in line
        if not times:
            return True
    return False


def test_a_remote_train_dir_gives_the_weights_of_a_local_one(
    remote_config, weights, never_killed, tmp_path
):
    config = remote_config(export_model_steps=4)
    assert train(dataclasses.replace(config, max_steps=7)) == 7
    assert not [path for path in tmp_path.glob("yt8m-train-*/*") if path.suffix != ".lock"]
    assert train(config) == 10
    assert_same(config.train_dir, weights, never_killed(config))
    exports = {name.split("/")[0] for name in storage.files_below(f"{config.train_dir}/export")}
    assert exports == {"step-00000004", "step-00000008"}
    assert storage.files_below(f"{config.train_dir}/events")
    found = evaluator.evaluate(config.train_dir, config.train_data_pattern)
    assert found.step == 10
    exported = f"{config.train_dir}/export/step-00000008"
    assert evaluator.evaluate(exported, config.train_data_pattern).step == 8


@pytest.mark.slow
def test_a_new_model_instead_of_the_one_in_the_bucket(remote_config):
    train(remote_config())
    with pytest.raises(UserError, match="holds a model with other flags"):
        train(remote_config(model="MoeModel"))
    assert train(remote_config(model="MoeModel", start_new_model=True, max_steps=2)) == 2
    config = remote_config()
    found = evaluator.evaluate(config.train_dir, config.train_data_pattern)
    assert (found.model_flags["model"], found.step) == ("MoeModel", 2)


@pytest.mark.parametrize("place", ["local", "gs"])
def test_the_second_trainer_is_told_of_the_first(place, make_config, request):
    config = make_config() if place == "local" else request.getfixturevalue("remote_config")()
    message = f"{config.train_dir} is in use: process {os.getpid()} on"
    with working_dir.open_exclusive(config.train_dir, 3), pytest.raises(UserError, match=message):
        train(config)
    assert train(config) == 10


def test_no_model_in_the_bucket(remote_config):
    config = remote_config()
    with pytest.raises(UserError, match=f"No model in '{config.train_dir}'"):
        evaluator.evaluate(config.train_dir, config.train_data_pattern)


@pytest.mark.slow
def test_killed_again_and_again_each_time_on_another_machine(
    remote_config, weights, never_killed, tmp_path
):
    config = remote_config(num_epochs=8, export_model_steps=2, base_learning_rate=0.1)
    chance = random.Random(5)
    num_kills = 0
    while True:
        with trainer(config, tmp_path / f"machine{num_kills}") as process:
            if not wait_for(process, "Uploaded step", chance.randint(1, 5)):
                assert process.wait() == 0
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 1))
            process.kill()
        num_kills += 1
        with mirror.local_copy(config.train_dir) as local:
            weights(local)
    assert num_kills >= 2
    assert_same(config.train_dir, weights, never_killed(config))


@pytest.mark.slow
def test_two_trainers_of_one_bucket(remote_config, weights, tmp_path):
    config = remote_config(num_epochs=100_000)
    with trainer(config, tmp_path / "one") as first:
        assert wait_for(first, "Working in")
        with trainer(config, tmp_path / "two") as second:
            _, log = second.communicate()
        assert second.returncode == 1
        assert f"error: {config.train_dir} is in use: process {first.pid} on" in log
        assert "Traceback" not in log
        assert wait_for(first, "training step")
        first.send_signal(signal.SIGTERM)
        first.stderr.read()
        assert first.wait() == 128 + signal.SIGTERM
    assert json.loads(storage.read_text(f"{config.train_dir}/mirror.json"))["trainer"] is None
    with mirror.local_copy(config.train_dir) as local:
        assert weights(local)


class Network(http.server.ThreadingHTTPServer):
    """Stands between a trainer and its storage; `mode` is what happens to requests.

    "pass": they are passed on; "drop": the connection is closed; "forbid": answered by 403.
    """

    daemon_threads = True

    def __init__(self, storage_server: str):
        super().__init__(("127.0.0.1", 0), Request)
        self.storage_server = urlsplit(storage_server).netloc
        self.mode = "pass"
        self.num_refused = 0

    def handle_error(self, request, client_address):
        """A client that was killed is no error."""


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.mode != "pass":
            self.server.num_refused += 1
            self.close_connection = True
            if self.server.mode == "forbid":
                self.answer(403, b'{"error": {"message": "No access today."}}')
            return
        headers = {k: v for k, v in self.headers.items() if k != "Host"}
        storage_server = http.client.HTTPConnection(self.server.storage_server)
        storage_server.request(self.command, self.path, body, headers)
        answer = storage_server.getresponse()
        self.answer(answer.status, answer.read(), answer.getheaders())
        storage_server.close()

    def answer(self, status: int, content: bytes, headers=()):
        self.send_response(status)
        for name, value in headers:
            if name not in ("Transfer-Encoding", "Content-Length", "Date", "Connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def network(gcs_bucket) -> Iterator[Network]:
    with Network(os.environ["STORAGE_EMULATOR_HOST"]) as network:
        threading.Thread(target=network.serve_forever, daemon=True).start()
        yield network
        network.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["drop", "forbid"])
def test_the_network_fails_while_training_goes_on(
    remote_config, weights, never_killed, network, tmp_path, mode
):
    config = remote_config(num_epochs=8, export_model_steps=2)
    through = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{network.server_port}"}
    with trainer(config, tmp_path / "machine", **through) as process:
        assert wait_for(process, "Uploaded step")
        network.mode = mode
        assert wait_for(process, "Saved checkpoint for step", 6)  # the steps do not wait
        assert network.num_refused
        network.mode = "pass"
        assert not wait_for(process, "there is no such line")
        assert process.wait() == 0
    assert_same(config.train_dir, weights, never_killed(config))
