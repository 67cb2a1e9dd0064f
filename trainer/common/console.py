"""How a command of ours starts: what it writes to the console, and how it keeps its memory."""

import contextlib
import datetime
import json
import logging
import os
import sys
import tempfile

from trainer.common import memory

NVIDIA_DRIVER = "/dev/nvidiactl"  # where there is one, what TensorFlow says of it matters


def set_up(log_format: str = "text"):
    """Sends our log lines to stderr, and imports TensorFlow without its start-up chatter.

    Args:
        log_format: "text", or "json" for one object a line.
    """
    handler = _Stderr()
    text = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_Json() if log_format == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("absl", "tensorflow"):
        logging.getLogger(library).setLevel(logging.ERROR)
    memory.keep_for_reuse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.nullcontext() if os.path.exists(NVIDIA_DRIVER) else _stderr_kept_back():
        import tensorflow as tf

        tf.config.list_physical_devices()  # without a GPU, says at length that there is none


class _Stderr(logging.StreamHandler):
    """Writes to what sys.stderr is at the moment: a progress bar puts itself in its place."""

    stream = property(lambda self: sys.stderr, lambda self, _: None)


class _Json(logging.Formatter):
    """A line as a JSON object: time, level, message, and the fields that its caller gave."""

    def format(self, record):
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        return json.dumps(line | getattr(record, "fields", {}))


@contextlib.contextmanager
def _stderr_kept_back():
    """Keeps back what is written to stderr, by C++ too; shows it if the body fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
