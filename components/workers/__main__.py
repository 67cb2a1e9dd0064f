"""Command: python -m components.workers --train_data_pattern=... --train_dir=...

One of several workers. It takes the flags of `python -m trainer.train`, and its place among the
workers from the environment.
"""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path

from trainer.common import console
from trainer.common.command_line import parse
from trainer.common.errors import UserError
from trainer.config import TrainConfig

ADDRESSES = "WORKER_ADDRESSES"  # host:port of each worker, comma-separated
MESSAGE_FILE = "WORKER_MESSAGE_FILE"  # where the reason of a failure is written
CONNECTED_FILE = "WORKER_CONNECTED_FILE"  # created once all workers are connected
KUBERNETES_MESSAGE_FILE = "/dev/termination-log"  # it becomes part of the pod's status

RESTART = os.EX_TEMPFAIL  # exit code: all workers must restart


def main(argv: list[str]):
    """Run the command."""
    os.environ["TF_CONFIG"] = tf_config(os.environ)
    # Its C++ code reports a lost worker in a dozen lines; what is raised in Python says as much.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        config = parse(TrainConfig, argv)
        console.set_up(config.log_format)
        from trainer.training import distribution, loop

        try:
            strategy = distribution.strategy_for(config)
            if CONNECTED_FILE in os.environ:
                Path(os.environ[CONNECTED_FILE]).touch()
            loop.train(config, strategy)
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
    with contextlib.suppress(OSError):
        Path(os.environ.get(MESSAGE_FILE, KUBERNETES_MESSAGE_FILE)).write_text(message)
    logging.error("error: %s", message)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv)
