"""One worker: its place among the others, and how it says why it ended."""

import json

import pytest

from components.workers.__main__ import main, tf_config
from trainer.common.errors import UserError

ADDRESSES = {"WORKER_ADDRESSES": "10.0.0.1:2222,train-0.train.kubeflow.svc:2222"}


@pytest.mark.parametrize("environment, index", [({}, 0), ({"JOB_COMPLETION_INDEX": "0"}, 1)])
def test_the_steps_own_pod_is_worker_0_and_the_jobs_pods_follow(environment, index):
    assert json.loads(tf_config(ADDRESSES | environment)) == {
        "cluster": {"worker": ["10.0.0.1:2222", "train-0.train.kubeflow.svc:2222"]},
        "task": {"type": "worker", "index": index},
    }


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """ended(error, *flags): exit code and message of a worker whose training raises this."""
    from trainer.training import distribution, loop

    message = tmp_path / "message"
    for name, value in (ADDRESSES | {"WORKER_MESSAGE_FILE": str(message)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
    monkeypatch.setattr(distribution, "strategy_for", lambda _: None)

    def ended(error, *flags) -> tuple[int, str]:
        def train(*_):
            raise error

        monkeypatch.setattr(loop, "train", train)
        with pytest.raises(SystemExit) as raised:
            main(["components.workers", *flags])
        return raised.value.code, message.read_text()

    return ended


def test_a_worker_that_lost_another_asks_for_a_restart(ended):
    from trainer.training.loop import WorkersMustRestart

    assert ended(WorkersMustRestart("Lost another worker.")) == (75, "Lost another worker.")


def test_a_worker_that_cannot_connect_asks_for_a_restart(ended):
    import tensorflow as tf

    code, message = ended(tf.errors.UnavailableError(None, None, "no such host"))
    assert code == 75
    assert message.startswith("Could not connect to the other workers: no such host")


def test_an_error_of_its_own(ended):
    assert ended(UserError("No file matches 'x'.")) == (1, "No file matches 'x'.")
    code, message = ended(None, "--batch_size=0")
    assert code == 1
    assert "--batch_size must be at least 1; got 0" in message
