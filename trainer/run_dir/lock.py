"""The lock of a train_dir: one trainer per machine and folder.

`fcntl.flock` and not a library such as filelock: the file also says who holds the lock, and which
lock it is, so that a trainer recognizes a killed predecessor on the same machine.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from trainer.common.errors import UserError


@contextlib.contextmanager
def lock(path: Path, train_dir: str) -> Iterator[dict]:
    """Hold the lock file `path`. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file.
        train_dir: the folder to name in messages.

    Yields:
        The holder: "host", "pid", "since" and "lock", an identifier of the lock file.

    Raises:
        UserError: another process holds the lock, or `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)  # buffered, close() would report a full disk again
    except OSError as error:
        raise _not_writable(train_dir, error) from error
    with file:
        previous = read_json(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = describe(previous) if "pid" in previous else "another process"
            raise in_use(train_dir, holder) from None
        except OSError as error:
            previous = {}
            logging.warning(
                "Cannot lock %s (%s). Make sure that no other trainer uses %s.",
                path,
                error.strerror,
                train_dir,
            )
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(" ", "seconds"),
            "lock": previous.get("lock") or uuid.uuid4().hex,
        }
        try:
            file.truncate(0)
            file.write(json.dumps(holder).encode())
        except OSError as error:
            raise _not_writable(train_dir, error) from error
        yield holder


def describe(holder: dict) -> str:
    """Describe the holder of a lock in a message."""
    return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"


def in_use(train_dir: str, holder: str) -> UserError:
    """Return the error to raise if another trainer uses `train_dir`."""
    return UserError(
        f"{train_dir} is in use: {holder} trains in it. Only one trainer can use a folder at a "
        "time. Wait for it to end, or give another --train_dir."
    )


def read_json(path: Path) -> dict:
    """Return a JSON object from a file; {} if the file is missing or incomplete."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {}


def _not_writable(train_dir: str, error: OSError) -> UserError:
    return UserError(f"Cannot write to --train_dir={train_dir}: {error.strerror}.")
