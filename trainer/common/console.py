"""Set-up of a command: logging, TensorFlow's messages, memory allocation."""

import contextlib
import datetime
import json
import logging
import os
import sys
import tempfile

from trainer.common import memory

NVIDIA_DRIVER = "/dev/nvidiactl"  # with a GPU, TensorFlow's messages about it matter


def set_up(log_format: str = "text"):
    """Log to stderr, and import TensorFlow without its start-up messages.

    Args:
        log_format: "text", or "json" for one object per line.
    """
    handler = _Stderr()
    text = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_Json() if log_format == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("absl", "tensorflow"):
        logging.getLogger(library).setLevel(logging.ERROR)
    memory.keep_for_reuse()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.nullcontext() if os.path.exists(NVIDIA_DRIVER) else _held_back_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()  # without a GPU, logs several lines about it


class _Stderr(logging.StreamHandler):
    """Writes to the current sys.stderr, which a progress bar replaces."""

    stream = property(lambda self: sys.stderr, lambda self, _: None)


class _Json(logging.Formatter):
    """Formats a record as a JSON object: time, level, message and its `fields`."""

    def format(self, record):
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        return json.dumps(line | getattr(record, "fields", {}))


@contextlib.contextmanager
def _held_back_stderr():
    """Hold back output to stderr, including that of C++; show it if the body fails."""
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
