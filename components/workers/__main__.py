"""Command: python -m components.workers --train_data_pattern=... --train_dir=...

One of several workers. It takes the flags of `python -m trainer.train`, and its place among the
workers from the environment.
"""

import contextlib
import json
import logging
import os
import sys

from trainer.common import console
from trainer.common.command_line import parse
from trainer.common.errors import UserError
from trainer.config import TrainConfig

ADDRESSES = "WORKER_ADDRESSES"  # host:port of each worker, comma-separated
MESSAGE_FILE = "WORKER_MESSAGE_FILE"  # where the reason of a failure is written
KUBERNETES_MESSAGE_FILE = "/dev/termination-log"  # it becomes part of the pod's status

RESTART = os.EX_TEMPFAIL  # exit code: all workers must restart


def main(argv: list[str]):
    """Run the command."""
    os.environ["TF_CONFIG"] = tf_config(os.environ)
    try:
        config = parse(TrainConfig, argv)
        console.set_up(config.log_format)
        from trainer.training import loop

        try:
            loop.train(config)
        except loop.WorkersMustRestart as error:
            _exit(RESTART, str(error))
        except loop.LOST_WORKER as error:  # while it connects
            _exit(RESTART, f"Could not connect to the other workers: {error}")
    except UserError as error:
        _exit(1, str(error))


def tf_config(environment: dict[str, str]) -> str:
    """Return TensorFlow's description of the workers and of this one's place among them.

    Kubernetes sets JOB_COMPLETION_INDEX in the pods of an Indexed Job, which are the workers from
    1 on. Worker 0 runs in the train step's own pod, without it.
    """
    cluster = {"worker": environment[ADDRESSES].split(",")}
    index = int(environment.get("JOB_COMPLETION_INDEX", -1)) + 1
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def _exit(code: int, message: str):
    with contextlib.suppress(OSError), open(_message_file(), "w") as file:
        file.write(message)
    logging.error("error: %s", message)
    sys.exit(code)


def _message_file() -> str:
    return os.environ.get(MESSAGE_FILE, KUBERNETES_MESSAGE_FILE)


if __name__ == "__main__":
    main(sys.argv)
