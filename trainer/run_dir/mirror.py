"""A train_dir in Google Cloud Storage: complete snapshots, and one object that lists them.

gs://BUCKET/TRAIN_DIR/
    mirror.json             the valid snapshots, oldest first, and the trainer that holds the lease
    snapshots/step-00001000-5f2c9a1b/
                            a train_dir of its own: model_flags.json, checkpoints/step-00001000/
    export/step-00001000/   as in a local train_dir; manifest.json is uploaded last
    events/                 as in a local train_dir

mirror.json is only changed by compare-and-swap, and only by the trainer that it names. If another
trainer takes over because the first one seemed dead, the first one can no longer make a snapshot
valid, and the names of its uploads are not used by any other trainer.

No library serves: `gcloud storage rsync` and gcsfuse neither make several files valid at once nor
keep a second trainer out.
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

# How often a trainer renews its lease, and after how long without renewal another one takes over.
RENEW_SECONDS = 10
LEASE_SECONDS = 45
POLL_SECONDS = 1

RECORD_FILE = "mirror.json"
SNAPSHOTS = "snapshots"
EXPORTS = "export"
EXPORT_COMPLETE = "manifest.json"  # uploaded last: without it, an exported model is incomplete


class Lost(UserError):
    """Another trainer has taken over the folder, or it was removed."""


class Mirror:
    """A remote train_dir on which this process holds the lease, until `release`.

    The methods are thread-safe. They raise UserError if the bucket is not reachable, and Lost once
    another trainer is known to have taken over.
    """

    def __init__(self, train_dir: str, record: dict, data: bytes):
        self.train_dir = train_dir
        self.lost: Lost | None = None
        self._record, self._data = record, data
        self._lease_id = record["trainer"]["lease"]
        self._renewed = time.monotonic()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """Identifier of the model that is trained in this folder; `clear` changes it."""
        return self._record["id"]

    @property
    def newest(self) -> dict | None:
        """The newest snapshot: its "name" and "files", file name -> SHA-256; None if none."""
        return self._record["snapshots"][-1] if self._record["snapshots"] else None

    def clear(self):
        """Remove snapshots and exported models."""
        storage.delete_tree(storage.join(self.train_dir, EXPORTS))
        self._swap(id=uuid.uuid4().hex, snapshots=[])
        storage.delete_tree(storage.join(self.train_dir, SNAPSHOTS))

    def restore(self, local: Path):
        """Download the newest complete snapshot, if any; invalidate damaged ones."""
        name = fetch(self.train_dir, local)
        snapshots = list(self._record["snapshots"])
        while snapshots and snapshots[-1]["name"] != name:
            snapshots.pop()
        if snapshots != self._record["snapshots"]:
            self._swap(snapshots=snapshots)

    def name_snapshot(self, checkpoint: str) -> str:
        """Return the name of this trainer's snapshot of a checkpoint."""
        return f"{checkpoint}-{self._lease_id[:8]}"

    def add_snapshot(self, name: str, files: dict[str, BinaryIO], keep: int) -> bool:
        """Upload a snapshot and make it the newest, then remove all but the newest `keep`.

        Returns:
            Whether it was uploaded; not if the newest snapshot has the same files.
        """
        digests = {file: _digest(content) for file, content in files.items()}
        if self.newest and self.newest["files"] == digests:
            return False
        for file, content in files.items():
            self.write(storage.join(SNAPSHOTS, name, file), content)
        snapshots = [*self._record["snapshots"], {"name": name, "files": digests}][-keep:]
        # List the folders before the swap: if this process is suspended here and another trainer
        # takes over, none of its snapshots is among them.
        present = self._folders(SNAPSHOTS)
        self._swap(snapshots=snapshots)
        for old in present - {snapshot["name"] for snapshot in snapshots}:
            storage.delete_tree(storage.join(self.train_dir, SNAPSHOTS, old))
        return True

    def add_export(self, name: str, files: dict[str, BinaryIO], keep: int):
        """Upload an exported model unless it exists, then remove all but the newest `keep`."""
        folder = storage.join(EXPORTS, name)
        if not storage.exists(storage.join(self.train_dir, folder, EXPORT_COMPLETE)):
            for file in sorted(files, key=lambda file: file == EXPORT_COMPLETE):
                self.write(storage.join(folder, file), files[file])
        for old in sorted(self._folders(EXPORTS))[:-keep]:
            self._check_lease()
            storage.delete_tree(storage.join(self.train_dir, EXPORTS, old))

    def write(self, name: str, content: BinaryIO):
        """Upload a file, if this trainer still holds the lease."""
        self._check_lease()
        storage.write_file(storage.join(self.train_dir, name), content)

    def release(self):
        """Release the lease, so that the next trainer can start immediately."""
        self._released.set()
        if self.lost:
            return
        try:
            self._swap(trainer=None)
        except UserError as error:
            logging.warning(
                "%s remains locked for up to %d s: %s", self.train_dir, LEASE_SECONDS, error
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
            except Exception as error:  # of any library: the next attempt may succeed
                if not failed:
                    logging.warning("Cannot renew the lease on %s: %s", self.train_dir, error)
                failed = True

    def _check_lease(self):
        """Make sure that this trainer still holds the lease."""
        if self.lost:
            raise self.lost
        if time.monotonic() - self._renewed > LEASE_SECONDS / 2:
            self._swap()

    def _swap(self, **changes):
        """Change the record, which also renews the lease."""
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
        """Read the record again, because it is not the one that this trainer wrote last."""
        data, record = _read(self.train_dir)
        if record and record["trainer"] and record["trainer"]["lease"] == self._lease_id:
            self._record, self._data = record, data  # it was written, but the response was lost
            return
        cause = "it was removed"
        if record:
            cause = "another trainer used it and ended"
        if record and record["trainer"]:
            cause = f"{describe(record['trainer'])} has taken over"
        self.lost = Lost(
            f"This trainer lost {self.train_dir}: {cause}. A trainer must renew its lease at least "
            f"every {LEASE_SECONDS} s."
        )

    @property
    def _path(self) -> str:
        return storage.join(self.train_dir, RECORD_FILE)


def acquire(train_dir: str, trainer: dict) -> Mirror:
    """Acquire the lease on a remote train_dir; wait first if its last trainer may have died.

    Args:
        train_dir: gs://BUCKET/FOLDER.
        trainer: this trainer: "host", "pid", "since" and "lock", the identifier of a lock on this
            host that this process holds, so that no other holder of it is alive.

    Raises:
        UserError: another trainer holds the lease and is alive, or the bucket is not accessible.
    """
    trainer = trainer | {"lease": uuid.uuid4().hex, "hold_seconds": LEASE_SECONDS}
    watched, since = None, 0.0
    while True:
        data, record = _read(train_dir)
        holder = record["trainer"] if record else None
        if holder and not _is_predecessor(holder, trainer):
            # A trainer is alive if the record changes, which needs no synchronized clocks.
            if data != watched:
                if watched is not None:
                    raise in_use(train_dir, describe(holder))
                watched, since = data, time.monotonic()
                logging.info(
                    "%s is locked by %s: waiting up to %d s to see whether it is alive.",
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
    """Whether `holder` held the lock of this host that `trainer` holds now, and so is dead."""
    return all(holder[name] == trainer[name] for name in ("lock", "host"))


def fetch(train_dir: str, local: Path) -> str | None:
    """Download the newest complete snapshot into a local folder.

    A snapshot with a missing or changed file is skipped with a warning.

    Returns:
        The name of the snapshot; None if there is none.

    Raises:
        UserError: there are snapshots, but none is complete, or the bucket is not readable.
    """
    snapshots = _snapshots(train_dir)
    while snapshots:
        for snapshot in reversed(snapshots):
            if _fetch_complete(train_dir, snapshot, local):
                return snapshot["name"]
        before, snapshots = snapshots, _snapshots(train_dir)
        if snapshots == before:
            raise UserError(f"None of the {len(snapshots)} snapshots in {train_dir} is complete.")
        # The trainer has replaced the snapshots meanwhile.
    return None


def _snapshots(train_dir: str) -> list[dict]:
    _, record = _read(train_dir)
    return record["snapshots"] if record else []


def _fetch_complete(train_dir: str, snapshot: dict, local: Path) -> bool:
    folder = storage.join(train_dir, SNAPSHOTS, snapshot["name"])
    for file, digest in snapshot["files"].items():
        source, target = storage.join(folder, file), local / file
        if storage.exists(source):
            with storage.open_read(source) as content:
                storage.write_file(str(target), content)
            with target.open("rb") as content:
                if _digest(content) == digest:
                    continue
        logging.warning("%s is missing or was changed. Trying an earlier snapshot.", source)
        for copied in snapshot["files"]:
            (local / copied).unlink(missing_ok=True)
        return False
    return True


@contextlib.contextmanager
def local_copy(train_dir: str) -> Iterator[str]:
    """Provide a local folder with the newest checkpoint and the model flags.

    For a local train_dir, this is the folder itself. For a remote one, it is a temporary folder,
    which is empty if there is no checkpoint.

    Raises:
        UserError: a remote train_dir is not readable, or none of its snapshots is complete.
    """
    if not storage.is_remote(train_dir):
        yield train_dir
        return
    with tempfile.TemporaryDirectory(prefix="yt8m-") as folder:
        fetch(train_dir, Path(folder))
        yield folder


def _read(train_dir: str) -> tuple[bytes | None, dict | None]:
    """Return the record as bytes and parsed; None and None if there is none."""
    path = storage.join(train_dir, RECORD_FILE)
    if not storage.exists(path):
        return None, None
    data = storage.read_bytes(path)
    with contextlib.suppress(ValueError):  # reported below, as any other content
        record = json.loads(data)
        if isinstance(record, dict) and {"id", "snapshots", "trainer", "turn"} <= record.keys():
            return data, record
    raise UserError(f"Expected a record of a trainer in {path!r}; it holds {data[:80]!r}.")


def _encode(record: dict) -> bytes:
    return json.dumps(record, indent=1).encode()


def _digest(content: BinaryIO) -> str:
    content.seek(0)
    return hashlib.file_digest(content, "sha256").hexdigest()


def step_of(name: str) -> int:
    """Return the step in the name of a checkpoint, an exported model or a snapshot."""
    return int(re.match(r"step-(\d+)", name)[1])
