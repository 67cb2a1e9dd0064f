"""What a command of ours writes to the console: its own lines, and none of its libraries' noise."""

import contextlib
import logging
import os
import sys
import tempfile

NVIDIA_DRIVER = "/dev/nvidiactl"  # where there is one, what TensorFlow says of it matters


def set_up():
    """Sends our log lines to stderr and imports TensorFlow without its start-up chatter."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in ("absl", "tensorflow"):
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.nullcontext() if os.path.exists(NVIDIA_DRIVER) else _stderr_kept_back():
        import tensorflow as tf

        tf.config.list_physical_devices()  # without a GPU, says at length that there is none


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
