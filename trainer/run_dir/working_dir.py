"""The local folder that a trainer works in, uploaded in the background if --train_dir is on gs://.

A remote train_dir has a working folder below the system's temporary folder (TMPDIR), always the
same one. Checkpoints are written there and uploaded by a thread, so that training never waits for
the network. A working folder is removed once it is uploaded completely. After a kill it stays, and
the next trainer on that machine resumes from it, unless the remote folder has changed since.

A mounted bucket (gcsfuse) would not serve: it renames no folder atomically, and a slow or
unreachable bucket would stop training.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.run_dir import checkpoints, mirror
from trainer.run_dir.lock import lock, read_json
from trainer.run_dir.mirror import Mirror

LOCK_FILE = ".trainer.lock"
NOTE_FILE = ".mirror.json"  # in a working folder: the remote snapshots that it continues
EVENTS = "events"
EVENTS_SECONDS = 60  # how often events are uploaded, besides with every checkpoint
MAX_RETRY_SECONDS = 60
RETRY_SECONDS_AT_END = 300  # how long failed uploads are retried after training


class LocalFolder:
    """A train_dir on this machine, where nothing needs to be uploaded."""

    def __init__(self, train_dir: str):
        self.local = train_dir

    def changed(self):
        """Call this after each save."""

    def check(self):
        """Call this regularly, e.g. after each step."""


class RemoteFolder:
    """The working folder of a train_dir on gs://, uploaded in the background.

    As a context manager, it waits at its end until the newest checkpoint is uploaded.
    """

    def __init__(self, local: Path, remote: Mirror, keep: int):
        self.local = str(local)
        self._remote = remote
        self._keep = keep
        self._condition = threading.Condition()
        self._waiting: dict[str, BinaryIO] = {}
        self._closing: float | None = None  # start time of closing
        self._failure: Exception | None = None
        self._events: dict[str, int] = {}  # name -> bytes uploaded
        self._thread = threading.Thread(target=self._upload_until_closed, daemon=True)

    def changed(self):
        """Upload the newest checkpoint and exported model, instead of those that still wait.

        Raises:
            Lost: another trainer has taken over.
        """
        self.check()
        # Open the files now, because they may be removed before they are uploaded.
        files = _open_newest(Path(self.local))
        with self._condition:
            _close(self._waiting)
            self._waiting = files
            self._condition.notify()

    def check(self):
        """Check that no other trainer has taken over, without a request.

        Raises:
            Lost: another trainer has taken over.
        """
        if self._remote.lost:
            raise self._remote.lost

    def __enter__(self):
        self._thread.start()
        self.changed()  # a killed trainer may have left a checkpoint that was not uploaded
        return self

    def __exit__(self, _, error, __):
        with self._condition:
            self._closing = time.monotonic()
            self._condition.notify()
        self._thread.join(1)
        if self._thread.is_alive():
            logging.info("Waiting for the upload to %s to finish.", self._remote.train_dir)
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
            f"{self._failure} It is in {self.local}. To resume from it and upload it, run the same "
            "command on this machine."
        )

    def _upload_until_closed(self):
        failures = 0
        while True:
            pause = min(2**failures, MAX_RETRY_SECONDS)
            files, closing = self._next(failures and pause)
            try:
                self._upload(files)
            except mirror.Lost:
                return
            except Exception as error:  # of any library: training continues
                failures += 1
                with self._condition:
                    newer = bool(self._waiting)
                    self._waiting = self._waiting or files
                if newer:
                    _close(files)
                if closing and time.monotonic() - closing > RETRY_SECONDS_AT_END:
                    self._failure = error
                    return
                logging.warning("An upload failed and will be retried: %s", error)
            else:
                failures = 0
                _close(files)
                if closing:
                    return

    def _next(self, pause: float) -> tuple[dict[str, BinaryIO], float | None]:
        """Wait for files to upload.

        Args:
            pause: seconds to wait after a failure; 0 after a success.

        Returns:
            The files, name -> file, and the time since when this folder is being closed, if it is.
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
        # Note both: a kill leaves the one or the other as the newest, and this folder continues it.
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
def open_exclusive(
    train_dir: str,
    keep: int,
    start_new: Callable[[str], bool] = lambda _: False,
    single_worker: bool = True,
) -> Iterator[LocalFolder | RemoteFolder]:
    """Open a train_dir to train in it, as the only trainer.

    The newest checkpoint of a remote train_dir is downloaded first. At the end, the newest local
    one is uploaded.

    Args:
        train_dir: a local folder, or gs://BUCKET/FOLDER.
        keep: number of checkpoints and exported models to keep in a remote train_dir.
        start_new: function from the local folder, with the newest checkpoint, to whether to remove
            all checkpoints and exported models.
        single_worker: whether no other worker starts from the same checkpoint. Other workers do
            not have a checkpoint that is here and was not uploaded, so it is not used then.

    Yields:
        The folder to work in.

    Raises:
        UserError: another trainer uses `train_dir`, it is not accessible, or, at the end, the
            newest checkpoint could not be uploaded.
        Lost: another trainer has taken over a remote train_dir.
    """
    if not storage.is_remote(train_dir):
        with lock(Path(train_dir) / LOCK_FILE, train_dir):
            if start_new(train_dir):
                checkpoints.remove_all(train_dir)
            yield LocalFolder(train_dir)
        return
    train_dir = train_dir.rstrip("/")
    local = _working_folder(train_dir)
    with lock(local.with_suffix(".lock"), train_dir) as trainer:
        remote = mirror.acquire(train_dir, trainer)
        try:
            try:
                _prepare(local, remote, single_worker)
            except UserError:  # no snapshot is complete
                if not start_new(str(local)):
                    raise
            if start_new(str(local)):
                _clear(local, remote)
            with RemoteFolder(local, remote, keep) as folder:
                yield folder
        finally:
            remote.release()


@contextlib.contextmanager
def open_read_only(train_dir: str) -> Iterator[LocalFolder]:
    """Open the folder of a worker that starts from the newest checkpoint and writes none.

    Raises:
        UserError: a remote `train_dir` is not readable.
    """
    with mirror.local_copy(train_dir) as local:
        yield LocalFolder(local)


def _clear(local: Path, remote: Mirror):
    """Remove all checkpoints and exported models, here and there."""
    remote.clear()
    checkpoints.remove_all(str(local))
    _write_note(local, remote)


def _prepare(local: Path, remote: Mirror, single_worker: bool):
    """Make the working folder continue the remote one."""
    storage.remove_temporary_files(str(local / NOTE_FILE))
    newest = remote.newest and remote.newest["name"]
    note = read_json(local / NOTE_FILE)
    if single_worker and note.get("id") == remote.id and newest in note["newest"]:
        logging.info("Working in %s, which continues %s.", local, remote.train_dir)
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
            raise UserError(f"{base} belongs to another user. Set TMPDIR to another folder.")
    except OSError as error:
        raise UserError(
            f"Cannot create a working folder: {error}. Set TMPDIR to another folder."
        ) from error
    return base / hashlib.sha256(train_dir.encode()).hexdigest()[:16]


def _open_newest(local: Path) -> dict[str, BinaryIO]:
    """Open the model flags and the files of the newest checkpoint and of the newest export."""
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
