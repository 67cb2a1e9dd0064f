"""Data manifests: the exact files of a data set, and what identifies their content.

Validation writes a manifest of each split. Wherever a file pattern is expected, the path of a
manifest may be given instead: training, evaluation and prediction then read the files that were
validated, and fail if one of them has changed.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import tfrecord

SUFFIX = ".manifest.json"
_MISSING = storage.FileStatus(0, 0)


class File(NamedTuple):
    """A file of a data set.

    Attributes:
        path: local or gs://.
        size: in bytes.
        version: generation of an object on gs://; time of modification of a local file, in ns.
        num_records: number of records, damaged ones included.
        checksum: SHA-256 digest of the records in their order, in hex.
    """

    path: str
    size: int
    version: int
    num_records: int
    checksum: str


class Manifest(NamedTuple):
    """The files of a data set, sorted by path."""

    files: tuple[File, ...]

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]

    @property
    def num_records(self) -> int:
        return sum(file.num_records for file in self.files)

    @property
    def content_key(self) -> str:
        """SHA-256 digest, in hex, of the records in their order; independent of the paths."""
        checksums = "".join(f"{file.checksum}\n" for file in self.files)
        return hashlib.sha256(checksums.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the content of the manifest's file."""
        files = [file._asdict() for file in self.files]
        return json.dumps({"num_records": self.num_records, "files": files}, indent=1) + "\n"


def create(
    statuses: dict[str, storage.FileStatus], scanned: Iterable[tuple[str, int, str]]
) -> Manifest:
    """Return the manifest of scanned files.

    Args:
        statuses: path -> status of the file before it was scanned.
        scanned: (path, number of records, checksum) of each file.
    """
    return Manifest(
        tuple(
            File(path, *statuses.get(path, _MISSING), num_records, checksum)
            for path, num_records, checksum in sorted(scanned)
        )
    )


def store(manifest: Manifest, folder: str) -> str:
    """Write a manifest into a folder, under a name made of its content; return its path.

    The same files therefore have the same path in every run, so that steps that read them can be
    cached.
    """
    text = manifest.to_json()
    name = hashlib.sha256(text.encode()).hexdigest()[:16] + SUFFIX
    path = storage.join(folder, name)
    storage.write_text(path, text)
    return path


def is_manifest(pattern: str) -> bool:
    """Whether a file pattern is the path of a manifest."""
    return pattern.endswith(SUFFIX)


def read(path: str) -> Manifest:
    """Return a manifest from its file.

    Raises:
        UserError: the file cannot be read, or is not a manifest.
    """
    entries = storage.read_json(path, "files")["files"]
    try:
        return Manifest(tuple(File(**entry) for entry in entries))
    except TypeError as error:
        raise UserError(f"{path} is not a data manifest: {error}.") from None


def expand(patterns: str) -> list[str]:
    """Return the files of a manifest, or those that match comma-separated patterns, sorted.

    Raises:
        UserError: a pattern matches no file, or a file of the manifest has changed.
    """
    if not is_manifest(patterns):
        return storage.glob(patterns)
    manifest = read(patterns)
    verify(manifest, patterns)
    return manifest.paths


def verify(manifest: Manifest, name: str):
    """Check that the files are those that were validated.

    A local file that was only touched or copied is accepted: its records are compared.

    Args:
        manifest: the files.
        name: path of the manifest, for error messages.

    Raises:
        UserError: a file has changed or does not exist.
    """
    found = storage.statuses(manifest.paths)
    changes = [change for file in manifest.files if (change := _change(file, found.get(file.path)))]
    if changes:
        raise UserError(
            f"{len(changes)} of the {len(manifest.files)} files in {name} changed after they were "
            f"validated: {changes[0]}. Restore the files, or validate the data again."
        )


def checksum(path: str) -> str:
    """Return the checksum of a file's records."""
    digest = hashlib.sha256()
    for record in tfrecord.scan_records(path):
        digest.update(tfrecord.identity(record))
    return digest.hexdigest()


def _change(file: File, found: storage.FileStatus | None) -> str | None:
    """Return how a file differs from what was validated; None if it does not."""
    if found is None:
        return f"{file.path} does not exist"
    if found.size != file.size:
        return f"{file.path} has {found.size} bytes; expected {file.size}"
    if found.version == file.version:
        return None
    if storage.is_remote(file.path):
        return f"{file.path} has generation {found.version}; expected {file.version}"
    if checksum(file.path) == file.checksum:
        return None
    return f"{file.path} contains other records of the same size"
