"""A train_dir in Google Cloud Storage: whole snapshots, and one small object that says what counts.

gs://BUCKET/TRAIN_DIR/
    mirror.json             the snapshots that count, oldest first, and the trainer at work
    snapshots/step-00001000-5f2c9a1b/
                            a train_dir of its own: model_flags.json, checkpoints/step-00001000/
    export/step-00001000/   as in a local train_dir; manifest.json comes last
    events/                 as in a local train_dir

mirror.json is changed by compare-and-swap alone, and by the trainer that it names. So a trainer
that another one has taken over from, because it seemed dead, cannot make a snapshot count; and
what it may still be uploading has names that nobody else uses.
"""

import contextlib
import hashlib
import json
import logging
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.run_dir.lock import describe, in_use

# A trainer renews its hold this often, and loses it to one that saw no renewal for that long.
RENEW_SECONDS = 10
HOLD_SECONDS = 45
POLL_SECONDS = 1

RECORD_FILE = "mirror.json"
SNAPSHOTS = "snapshots"
EXPORTS = "export"
EXPORT_COMPLETE = "manifest.json"  # an export's last file: without it, there is no export


class Lost(UserError):
    """Another trainer has taken over, or the folder was removed."""


class Mirror:
    """A remote train_dir, held by this process until `release`.

    Its methods may be called from several threads. They raise UserError when the bucket cannot be
    reached, and Lost as soon as it is known that another trainer holds the folder.
    """

    def __init__(self, train_dir: str, record: dict, data: bytes):
        self.train_dir = train_dir
        self.lost: Lost | None = None
        self._record, self._data = record, data
        self._lease = record["trainer"]["lease"]
        self._renewed = time.monotonic()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """Identifies what was begun in this folder: another one after `clear`."""
        return self._record["id"]

    @property
    def newest(self) -> dict | None:
        """The newest snapshot: its "name" and its "files", name -> SHA-256."""
        return self._record["snapshots"][-1] if self._record["snapshots"] else None

    def clear(self):
        """Removes snapshots and exports."""
        storage.delete_tree(storage.join(self.train_dir, EXPORTS))
        self._swap(id=uuid.uuid4().hex, snapshots=[])
        storage.delete_tree(storage.join(self.train_dir, SNAPSHOTS))

    def restore(self, local: Path):
        """Copies the newest whole snapshot, if any, into a local folder; forgets broken ones."""
        name = fetch(self.train_dir, local)
        snapshots = list(self._record["snapshots"])
        while snapshots and snapshots[-1]["name"] != name:
            snapshots.pop()
        if snapshots != self._record["snapshots"]:
            self._swap(snapshots=snapshots)

    def name_snapshot(self, checkpoint: str) -> str:
        """The name of this trainer's snapshot with that checkpoint."""
        return f"{checkpoint}-{self._lease[:8]}"

    def add_snapshot(self, name: str, files: dict[str, BinaryIO], keep: int) -> bool:
        """Uploads a snapshot and makes it the newest; then removes all but the newest `keep`.

        Returns:
            False: the newest has these very files already, and nothing was done.
        """
        digests = {file: _digest(content) for file, content in files.items()}
        if self.newest and self.newest["files"] == digests:
            return False
        for file, content in files.items():
            self.write(storage.join(SNAPSHOTS, name, file), content)
        snapshots = [*self._record["snapshots"], {"name": name, "files": digests}][-keep:]
        # What there is now, and no later: if this trainer sleeps from here on, and another one
        # takes over, nothing of that one's is among it.
        present = self._folders(SNAPSHOTS)
        self._swap(snapshots=snapshots)
        for old in present - {snapshot["name"] for snapshot in snapshots}:
            storage.delete_tree(storage.join(self.train_dir, SNAPSHOTS, old))
        return True

    def add_export(self, name: str, files: dict[str, BinaryIO], keep: int):
        """Uploads an exported model, if it is not there; then removes all but the newest `keep`."""
        folder = storage.join(EXPORTS, name)
        if not storage.exists(storage.join(self.train_dir, folder, EXPORT_COMPLETE)):
            for file in sorted(files, key=lambda file: file == EXPORT_COMPLETE):
                self.write(storage.join(folder, file), files[file])
        for old in sorted(self._folders(EXPORTS))[:-keep]:
            self._hold()
            storage.delete_tree(storage.join(self.train_dir, EXPORTS, old))

    def write(self, name: str, content: BinaryIO):
        """Uploads a file, if this trainer still holds the folder."""
        self._hold()
        storage.write_file(storage.join(self.train_dir, name), content)

    def release(self):
        """Lets the next trainer in at once."""
        self._released.set()
        if self.lost:
            return
        try:
            self._swap(trainer=None)
        except UserError as error:
            logging.warning(
                "%s stays locked for up to %d s: %s", self.train_dir, HOLD_SECONDS, error
            )

    def _folders(self, folder: str) -> set[str]:
        files = storage.files_below(storage.join(self.train_dir, folder))
        return {file.split("/")[0] for file in files}

    def _keep_renewing(self):
        failed = False
        while not self._released.wait(RENEW_SECONDS) and not self.lost:
            try:
                self._swap()
                failed = False
            except Exception as error:  # whatever a library raises: the next try may succeed
                if not failed:
                    logging.warning("The hold on %s cannot be renewed: %s", self.train_dir, error)
                failed = True

    def _hold(self):
        """Makes sure that nobody else may hold the folder now."""
        if self.lost:
            raise self.lost
        if time.monotonic() - self._renewed > HOLD_SECONDS / 2:
            self._swap()

    def _swap(self, **changes):
        """Changes the record, and by that renews the hold."""
        with self._lock:
            while not self.lost:
                started = time.monotonic()
                record = self._record | changes | {"turn": self._record["turn"] + 1}
                data = _encode(record)
                if storage.replace_if(self._path, data, expected=self._data):
                    self._record, self._data, self._renewed = record, data, started
                    return
                self._catch_up()
            raise self.lost

    def _catch_up(self):
        """Reads the record anew: it is not what this trainer last heard that it had written."""
        data, record = _read(self.train_dir)
        if record and record["trainer"] and record["trainer"]["lease"] == self._lease:
            self._record, self._data = record, data  # it was written, and the answer got lost
            return
        now = "it was removed"
        if record:
            now = f"{describe(record['trainer'])} holds it now" if record["trainer"] else "it ended"
        self.lost = Lost(
            f"{self.train_dir} is no longer this trainer's: {now}. A trainer must be able to renew "
            f"its hold on its --train_dir every {HOLD_SECONDS} s."
        )

    @property
    def _path(self) -> str:
        return storage.join(self.train_dir, RECORD_FILE)


def acquire(train_dir: str, trainer: dict) -> Mirror:
    """Holds a remote train_dir; waits first, if the trainer that held it last may have died.

    Args:
        train_dir: gs://BUCKET/FOLDER.
        trainer: who wants to hold it: "host", "pid" and "since"; and "lock", which names a lock
            of that host that this process holds, so that no other holder of "lock" is alive.

    Raises:
        UserError: another trainer holds the folder and is alive, or the bucket cannot be used.
    """
    trainer = trainer | {"lease": uuid.uuid4().hex, "hold_seconds": HOLD_SECONDS}
    watched, since = None, 0.0
    while True:
        data, record = _read(train_dir)
        holder = record["trainer"] if record else None
        if holder and not _is_predecessor(holder, trainer):
            # Only what changes is alive. That needs no two clocks that agree.
            if data != watched:
                if watched is not None:
                    raise in_use(train_dir, describe(holder))
                watched, since = data, time.monotonic()
                logging.info(
                    "%s was left locked by %s, or is in use: waiting up to %d s to see.",
                    train_dir,
                    describe(holder),
                    holder["hold_seconds"],
                )
            if time.monotonic() - since < holder["hold_seconds"]:
                time.sleep(POLL_SECONDS)
                continue
        record = record or {"id": uuid.uuid4().hex, "snapshots": [], "turn": 0}
        record = record | {"trainer": trainer, "turn": record["turn"] + 1}
        new = _encode(record)
        if storage.replace_if(storage.join(train_dir, RECORD_FILE), new, expected=data):
            return Mirror(train_dir, record, new)


def _is_predecessor(holder: dict, trainer: dict) -> bool:
    """Whether `holder` held the lock of this machine that `trainer` holds now: it is dead."""
    return all(holder[name] == trainer[name] for name in ("lock", "host"))


def fetch(train_dir: str, local: Path) -> str | None:
    """Copies the newest whole snapshot into a local folder.

    A snapshot that lost a file, or whose files changed, is passed over with a warning.

    Returns:
        Its name; None when there is no snapshot.

    Raises:
        UserError: there are snapshots and none is whole, or the bucket cannot be read.
    """
    snapshots = _snapshots(train_dir)
    while snapshots:
        for snapshot in reversed(snapshots):
            if _fetch_whole(train_dir, snapshot, local):
                return snapshot["name"]
        before, snapshots = snapshots, _snapshots(train_dir)
        if snapshots == before:
            raise UserError(f"None of the {len(snapshots)} snapshots in {train_dir} is whole.")
        # The trainer has replaced those meanwhile.
    return None


def _snapshots(train_dir: str) -> list[dict]:
    _, record = _read(train_dir)
    return record["snapshots"] if record else []


def _fetch_whole(train_dir: str, snapshot: dict, local: Path) -> bool:
    folder = storage.join(train_dir, SNAPSHOTS, snapshot["name"])
    for file, digest in snapshot["files"].items():
        source, target = storage.join(folder, file), local / file
        if storage.exists(source):
            with storage.open_read(source) as content:
                storage.write_file(str(target), content)
            with target.open("rb") as content:
                if _digest(content) == digest:
                    continue
        logging.warning("%s is missing or was changed; trying an earlier snapshot.", source)
        for copied in snapshot["files"]:
            (local / copied).unlink(missing_ok=True)
        return False
    return True


@contextlib.contextmanager
def local_copy(train_dir: str) -> Iterator[str]:
    """A local folder to read the newest checkpoint and the model's flags from.

    That of a local train_dir is itself; that of a remote one holds nothing where there is no
    checkpoint, and is removed afterwards.

    Raises:
        UserError: a remote train_dir cannot be read, or none of its snapshots is whole.
    """
    if not train_dir.startswith("gs://"):
        yield train_dir
        return
    with tempfile.TemporaryDirectory(prefix="yt8m-") as folder:
        fetch(train_dir, Path(folder))
        yield folder


def _read(train_dir: str) -> tuple[bytes | None, dict | None]:
    """The record as it is stored, and what it says; None where there is none."""
    path = storage.join(train_dir, RECORD_FILE)
    if not storage.exists(path):
        return None, None
    data = storage.read_bytes(path)
    with contextlib.suppress(ValueError):  # no JSON: told below, as is any other content
        record = json.loads(data)
        if isinstance(record, dict) and {"id", "snapshots", "trainer", "turn"} <= record.keys():
            return data, record
    raise UserError(f"Expected what a trainer wrote in {path!r}; it holds {data[:80]!r}.")


def _encode(record: dict) -> bytes:
    return json.dumps(record, indent=1).encode()


def _digest(content: BinaryIO) -> str:
    content.seek(0)
    return hashlib.file_digest(content, "sha256").hexdigest()


def step_of(name: str) -> int:
    """The step in the name of a checkpoint, an export or a snapshot."""
    return int(re.match(r"step-(\d+)", name)[1])
