"""The folder that a trainer works in: one trainer at a time, and on gs:// by way of a local one.

A remote train_dir has a local working folder under the system's temporary folder (TMPDIR), the
same one each time. Checkpoints are written there and uploaded in the background by trainer/mirror,
so that training never waits for a network. A working folder is removed when all of it has been
uploaded; after a kill it stays, and the next trainer there goes on with it, unless the remote
folder has moved on meanwhile.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.run_dir import mirror
from trainer.run_dir.mirror import Mirror

LOCK_FILE = ".trainer.lock"
NOTE_FILE = ".mirror.json"  # in a working folder: what of the remote folder it goes on from
EVENTS = "events"
EVENTS_SECONDS = 60  # events are uploaded this often, and with every checkpoint
MOST_SECONDS_BETWEEN_TRIES = 60
PATIENCE_SECONDS = 300  # how long failing uploads are tried again once training has ended


class LocalFolder:
    """A train_dir on this machine: nothing to do."""

    def __init__(self, train_dir: str):
        self.local = train_dir

    def changed(self):
        """To be called after each save."""

    def check(self):
        """To be called now and then, each step say."""


class RemoteFolder:
    """The working folder of a train_dir on gs://, uploaded in the background.

    Leaving its context waits until the newest checkpoint is uploaded.
    """

    def __init__(self, local: Path, remote: Mirror, keep: int):
        self.local = str(local)
        self._remote = remote
        self._keep = keep
        self._condition = threading.Condition()
        self._waiting: dict[str, BinaryIO] = {}
        self._closing: float | None = None  # since when
        self._failure: Exception | None = None
        self._events: dict[str, int] = {}  # bytes uploaded, by name
        self._thread = threading.Thread(target=self._upload_until_closed, daemon=True)

    def changed(self):
        """Has the newest checkpoint and export uploaded, in place of any that still waits.

        Raises:
            Lost: as `check`.
        """
        self.check()
        # Opened now: the files may be removed before they are uploaded.
        files = _open_newest(Path(self.local))
        with self._condition:
            _close(self._waiting)
            self._waiting = files
            self._condition.notify()

    def check(self):
        """Takes no time.

        Raises:
            Lost: another trainer has taken over.
        """
        if self._remote.lost:
            raise self._remote.lost

    def __enter__(self):
        self._thread.start()
        self.changed()  # a trainer that was killed may have left one that is not uploaded
        return self

    def __exit__(self, _, error, __):
        with self._condition:
            self._closing = time.monotonic()
            self._condition.notify()
        self._thread.join(1)
        if self._thread.is_alive():
            logging.info("Waiting for the upload to %s.", self._remote.train_dir)
            self._thread.join()
        if self._failure is None and not self._remote.lost:
            shutil.rmtree(self.local, ignore_errors=True)
        elif error is None:
            self.check()
            raise UserError(self._not_uploaded()) from self._failure
        elif self._failure:
            logging.warning("%s", self._not_uploaded())

    def _not_uploaded(self) -> str:
        return (
            f"The newest checkpoint could not be uploaded to {self._remote.train_dir}: "
            f"{self._failure} It is in {self.local}: the same command on this machine goes on "
            "from there and uploads it."
        )

    def _upload_until_closed(self):
        failures = 0
        while True:
            pause = min(2**failures, MOST_SECONDS_BETWEEN_TRIES)
            files, closing = self._next(failures and pause)
            try:
                self._upload(files)
            except mirror.Lost:
                return
            except Exception as error:  # whatever a library raises: training goes on
                failures += 1
                with self._condition:
                    newer = bool(self._waiting)
                    self._waiting = self._waiting or files
                if newer:
                    _close(files)
                if closing and time.monotonic() - closing > PATIENCE_SECONDS:
                    self._failure = error
                    return
                logging.warning("An upload failed and will be tried again: %s", error)
            else:
                failures = 0
                _close(files)
                if closing:
                    return

    def _next(self, pause: float) -> tuple[dict[str, BinaryIO], float | None]:
        """What to upload next, and since when this folder is closing.

        Args:
            pause: seconds to wait after a failure; 0 after a success.
        """
        with self._condition:
            if not pause:
                self._condition.wait_for(lambda: self._waiting or self._closing, EVENTS_SECONDS)
            elif self._closing:
                self._condition.wait(pause)
            else:
                self._condition.wait_for(lambda: self._closing, pause)
            files, self._waiting = self._waiting, {}
            return files, self._closing

    def _upload(self, files: dict[str, BinaryIO]):
        snapshot = {name: file for name, file in files.items() if not _is_export(name)}
        if snapshot:
            self._upload_snapshot(snapshot)
        export = {name: file for name, file in files.items() if _is_export(name)}
        if export:
            folder = next(iter(export)).split("/")[1]
            inside = {name.split("/", 2)[2]: file for name, file in export.items()}
            self._remote.add_export(folder, inside, self._keep)
        self._upload_events()

    def _upload_snapshot(self, files: dict[str, BinaryIO]):
        started = time.monotonic()
        checkpoint = next(name for name in files if "/" in name).split("/")[1]
        name = self._remote.name_snapshot(checkpoint)
        # Both: whichever a kill leaves as the newest, this folder goes on from it.
        _write_note(Path(self.local), self._remote, name)
        if self._remote.add_snapshot(name, files, self._keep):
            seconds = time.monotonic() - started
            logging.info(
                "Uploaded %s to %s in %.0f s.", checkpoint, self._remote.train_dir, seconds
            )

    def _upload_events(self):
        for path in sorted((Path(self.local) / EVENTS).rglob("*")):
            name = path.relative_to(self.local).as_posix()
            size = path.stat().st_size
            if path.is_file() and self._events.get(name) != size:
                with path.open("rb") as file:
                    self._remote.write(name, file)
                self._events[name] = size


@contextlib.contextmanager
def hold(
    train_dir: str, keep: int, start_new: bool = False, alone: bool = True
) -> Iterator[LocalFolder | RemoteFolder]:
    """The one trainer's folder, to save checkpoints and exports in.

    A remote train_dir's newest checkpoint is brought here first. Afterwards it is waited until
    the newest one here is uploaded.

    Args:
        train_dir: a local folder, or gs://BUCKET/FOLDER.
        keep: how many checkpoints and exports to keep in a remote train_dir.
        start_new: forget what is in a remote train_dir.
        alone: no worker on another machine starts from the same checkpoint. With others, one that
            is here and was not uploaded is of no use, for they have not got it.

    Raises:
        UserError: another trainer holds `train_dir`, it cannot be used, or at the end: what was
            saved could not be uploaded.
        Lost: another trainer has taken over a remote train_dir.
    """
    if not train_dir.startswith("gs://"):
        with _locked(Path(train_dir) / LOCK_FILE, train_dir):
            yield LocalFolder(train_dir)
        return
    train_dir = train_dir.rstrip("/")
    local = _working_folder(train_dir)
    with _locked(local.with_suffix(".lock"), train_dir) as trainer:
        remote = mirror.acquire(train_dir, trainer)
        try:
            _prepare(local, remote, start_new, alone)
            with RemoteFolder(local, remote, keep) as folder:
                yield folder
        finally:
            remote.release()


@contextlib.contextmanager
def follow(train_dir: str) -> Iterator[LocalFolder]:
    """The folder of a worker that starts from the newest checkpoint, and saves none.

    Raises:
        UserError: a remote `train_dir` cannot be read.
    """
    with mirror.local_copy(train_dir) as local:
        yield LocalFolder(local)


def _prepare(local: Path, remote: Mirror, start_new: bool, alone: bool):
    """Makes the working folder go on from the remote one."""
    storage.remove_temporary_files(str(local / NOTE_FILE))
    if start_new:
        remote.clear()
    newest = remote.newest and remote.newest["name"]
    note = _read_json(local / NOTE_FILE)
    if alone and note.get("id") == remote.id and newest in note["newest"]:
        logging.info("Working in %s, which goes on from %s.", local, remote.train_dir)
        return
    logging.info("Working in %s, uploading to %s.", local, remote.train_dir)
    shutil.rmtree(local, ignore_errors=True)
    local.mkdir()
    remote.restore(local)
    _write_note(local, remote)


def _write_note(local: Path, remote: Mirror, *next_names: str):
    newest = remote.newest and remote.newest["name"]
    note = {"id": remote.id, "newest": [newest, *next_names]}
    storage.write_text(str(local / NOTE_FILE), json.dumps(note))


def _working_folder(train_dir: str) -> Path:
    base = Path(tempfile.gettempdir()) / f"yt8m-train-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        if base.lstat().st_uid != os.getuid():
            raise UserError(f"{base} belongs to another user; set TMPDIR to another folder.")
    except OSError as error:
        raise UserError(f"No working folder can be made: {error}. Set TMPDIR.") from error
    return base / hashlib.sha256(train_dir.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path, train_dir: str) -> Iterator[dict]:
    """Holds a lock that ends with the process, however it ends.

    Yields:
        Who holds it: "host", "pid", "since", and "lock", which names the lock itself.

    Raises:
        UserError: another process holds it, or `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)  # else a full disk is told of by close, too
    except OSError as error:
        raise _unusable(train_dir, error) from error
    with file:
        before = _read_json(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = mirror.describe(before) if "pid" in before else "another process"
            raise mirror.in_use(train_dir, holder) from None
        except OSError as error:
            before = {}
            logging.warning(
                "%s cannot be locked (%s): make sure that no other trainer works in %s.",
                path,
                error.strerror,
                train_dir,
            )
        trainer = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(" ", "seconds"),
            "lock": before.get("lock") or uuid.uuid4().hex,
        }
        try:
            file.truncate(0)
            file.write(json.dumps(trainer).encode())
        except OSError as error:
            raise _unusable(train_dir, error) from error
        yield trainer


def _unusable(train_dir: str, error: OSError) -> UserError:
    return UserError(f"--train_dir={train_dir} cannot be written to: {error.strerror}.")


def _read_json(path: Path) -> dict:
    """What a file holds; {} where it cannot be read, or was written by halves."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {}


def _open_newest(local: Path) -> dict[str, BinaryIO]:
    """The files of the newest checkpoint, with the model's flags, and of the newest export."""
    checkpoint = _newest(local / "checkpoints")
    if checkpoint is None:
        return {}
    paths = [local / "model_flags.json", *checkpoint.rglob("*")]
    export = _newest(local / mirror.EXPORTS)
    if export:
        paths += export.rglob("*")
    return {path.relative_to(local).as_posix(): path.open("rb") for path in paths if path.is_file()}


def _newest(folder: Path) -> Path | None:
    steps = folder.glob("step-*")
    return max(steps, key=lambda path: mirror.step_of(path.name), default=None)


def _is_export(name: str) -> bool:
    return name.startswith(mirror.EXPORTS + "/")


def _close(files: dict[str, BinaryIO]):
    for file in files.values():
        file.close()
