"""Read and write files, local or in Google Cloud Storage.

A path is local or `gs://BUCKET/KEY`. The application default credentials are used; if
STORAGE_EMULATOR_HOST is set, that server is used instead, without credentials.

A missing file, missing permissions, a full disk or an unreachable bucket raises a UserError that
names the path. A failed write leaves the previous file unchanged.

fsspec with gcsfs is not used: it has no common interface for compare-and-swap (`replace_if`) and
for atomic writes that survive a power failure.
"""

import collections
import contextlib
import fcntl
import fnmatch
import functools
import glob as local_glob
import io
import json
import os
import posixpath
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from trainer.common.errors import UserError

_DOWNLOADS = 6  # attempts, the last one after a minute
_STALLED_SECONDS = 20  # without data, after which a download is repeated
_CONNECTIONS = 64  # kept open; the default of 10 is less than --num_readers may be
_CHUNK = 8 * 2**20  # bytes per request when an object is read or written in chunks


def join(*parts: str) -> str:
    """Join the parts of a path with slashes."""
    return posixpath.join(*parts)


def glob(patterns: str) -> list[str]:
    """Return the files that match any of the comma-separated `patterns`, sorted and distinct.

    `*`, `?` and `[...]` match within one component of a path. Folders do not match.

    Raises:
        UserError: there is no pattern, or a pattern matches no file.
    """
    files: set[str] = set()
    pieces = [piece.strip() for piece in patterns.split(",")]
    for pattern in filter(None, pieces):
        matches = _glob_one(pattern)
        if not matches:
            raise UserError(f"No file matches {pattern!r}; expected at least one.")
        files.update(matches)
    if not files:
        raise UserError(f"Expected a file name or pattern; got {patterns!r}.")
    return sorted(files)


def exists(path: str) -> bool:
    """Whether a file or folder exists at `path`. On gs://, an empty folder does not exist."""
    with _explained("look for", path):
        if not is_remote(path):
            return os.path.exists(_local(path))
        bucket, key = _bucket_and_key(path)
        if key and bucket.blob(key).exists():
            return True
        return any(bucket.list_blobs(prefix=_folder(key), max_results=1))


def size(path: str) -> int:
    """Return the size of a file in bytes."""
    with _explained("read", path):
        return _blob(path).size if is_remote(path) else os.path.getsize(_local(path))


class FileStatus(NamedTuple):
    """Status of a file.

    Attributes:
        size: in bytes.
        version: generation of an object on gs://; time of modification of a local file, in ns.
    """

    size: int
    version: int


def statuses(paths: Iterable[str]) -> dict[str, FileStatus]:
    """Return the status of each file that exists.

    On gs://, the files of a bucket take one listing of their common prefix, not a request each.
    """
    local, remote = [], collections.defaultdict(list)
    for path in paths:
        if is_remote(path):
            remote[path.split("/")[2]].append(path)
        else:
            local.append(path)
    found = {path: _local_status(path) for path in local if os.path.isfile(_local(path))}
    for bucket, names in remote.items():
        prefix = os.path.commonprefix(names)  # noqa: RUF071 (a prefix need not end at a slash)
        with _explained("look for", prefix):
            blobs = _bucket_and_key(prefix)[0].list_blobs(prefix=_bucket_and_key(prefix)[1])
            listed = {f"gs://{bucket}/{b.name}": FileStatus(b.size, b.generation) for b in blobs}
        found |= {name: listed[name] for name in names if name in listed}
    return found


def open_read(path: str) -> BinaryIO:
    """Open a file for reading: binary, buffered and seekable. The caller closes it."""
    with _explained("read", path):
        if is_remote(path):
            return _blob(path).open("rb", chunk_size=_CHUNK)
        return open(_local(path), "rb")


def download(path: str, target: BinaryIO) -> None:
    """Download an object on gs:// into an open file, in one request.

    A failed request is repeated, for a few minutes.
    """
    with _explained("read", path):
        bucket, key = _bucket_and_object(path)
        for attempt in range(_DOWNLOADS):
            try:
                target.seek(0)
                target.truncate()
                # The library resumes after a failure, and compares the checksum at the end.
                bucket.blob(key).download_to_file(target, timeout=_STALLED_SECONDS)
                target.flush()
                return
            except (ConnectionError, *_transient_errors()):
                if attempt == _DOWNLOADS - 1:
                    raise
                time.sleep(2**attempt)


def _transient_errors() -> tuple[type[Exception], ...]:
    from google.api_core.exceptions import RetryError, ServerError
    from google.resumable_media import DataCorruption
    from requests import RequestException

    return RetryError, ServerError, DataCorruption, RequestException


def read_bytes(path: str) -> bytes:
    """Return the content of a file."""
    with _explained("read", path):
        if is_remote(path):
            return _download(path)[0]
        with open(_local(path), "rb") as file:
            return file.read()


def read_text(path: str) -> str:
    """Return the content of a UTF-8 file."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"Expected UTF-8 text in {path!r}, but found {error}.") from error


def read_json(path: str, *keys: str) -> dict:
    """Return a JSON object from a file.

    Raises:
        UserError: the file cannot be read, is not a JSON object, or lacks one of the `keys`.
    """
    text = read_text(path)
    with contextlib.suppress(ValueError):  # reported below, as any other content
        value = json.loads(text)
        if isinstance(value, dict) and all(key in value for key in keys):
            return value
    expected = f" with {', '.join(keys)}" if keys else ""
    raise UserError(f"Expected a JSON object{expected} in {path!r}; it holds {text[:80]!r}.")


def write_bytes(path: str, data: bytes) -> None:
    """Create or replace a file atomically: readers see the old content or the new one.

    Missing folders are created. A link is followed; a device or a pipe is written to.
    """
    write_file(path, io.BytesIO(data))


def write_file(path: str, source: BinaryIO) -> None:
    """Like `write_bytes`, with the content of the seekable file `source`."""
    with _explained("write", path):
        source.seek(0)
        if is_remote(path):
            bucket, key = _bucket_and_object(path)
            _upload(bucket.blob(key, chunk_size=_CHUNK), source)
        else:
            _write_local(_local(path), source)


def write_text(path: str, text: str) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def remove_temporary_files(path: str) -> None:
    """Remove what killed processes left of writing the file `path`.

    No process may be writing the file.
    """
    if is_remote(path):
        return  # an upload that does not end leaves nothing
    folder, name = map(local_glob.escape, os.path.split(os.path.realpath(path)))
    for temporary in local_glob.glob(os.path.join(folder, f".{name}.*.tmp")):
        os.remove(temporary)


def replace_if(path: str, data: bytes, expected: bytes | None) -> bool:
    """Compare-and-swap: replace the content of a small file if it is `expected`.

    If several writers pass different data and the same `expected`, exactly one succeeds. It is safe
    to retry after an error.

    Args:
        path: the file.
        data: the new content.
        expected: the current content; None if the file does not exist.

    Returns:
        Whether the file's content is `data` now. If not, the file is unchanged.
    """
    with _explained("write", path):
        swap = _swap_remote if is_remote(path) else _swap_local
        return swap(path, data, expected)


def files_below(folder: str) -> list[str]:
    """Return the paths of all files below `folder`, relative to it and sorted."""
    with _explained("list", folder):
        if not is_remote(folder):
            return _local_files_below(_local(folder))
        bucket, key = _bucket_and_key(folder)
        prefix = _folder(key)
        names = [blob.name for blob in bucket.list_blobs(prefix=prefix)]
        return sorted(n.removeprefix(prefix) for n in names if not n.endswith("/"))


def copy_tree(source: str, destination: str) -> None:
    """Copy all files of a folder, each of them atomically.

    Raises:
        UserError: `source` contains no file, or a file cannot be read or written. The files that
            were copied before remain.
    """
    files = files_below(source)
    if not files:
        raise UserError(f"Expected a folder with files; {source!r} contains none.")
    for name in files:
        with open_read(join(source, name)) as file:
            write_file(join(destination, name), file)


def delete_tree(folder: str) -> None:
    """Delete a folder and its content, if it exists."""
    with _explained("delete", folder):
        if is_remote(folder):
            bucket, key = _bucket_and_key(folder)
            bucket.delete_blobs(list(bucket.list_blobs(prefix=_folder(key))), on_error=_ignore)
        elif os.path.exists(_local(folder)):
            shutil.rmtree(folder)


@contextlib.contextmanager
def _explained(action: str, path: str):
    """Turn an error of the system or the server into a UserError that names the path."""
    try:
        yield
    except (OSError, *_cloud_errors()) as error:
        raise UserError(f"Cannot {action} {path!r}: {_reason(error)}.") from error


def _cloud_errors() -> tuple[type[Exception], ...]:
    if "google.cloud.storage" not in sys.modules:
        return ()  # a library that is not loaded has raised nothing
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return GoogleAPIError, GoogleAuthError


def _reason(error: Exception) -> str:
    """Return the message of the system or the server, without the request."""
    if getattr(error, "cause", None):  # a RetryError, whose own message only says how long it tried
        return _reason(error.cause)
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    body = re.search(r'"message": *"([^"]+)"', text)
    return (body[1] if body else re.sub(r"^[A-Z]+ https?://\S+ ", "", text)).rstrip(".")


def is_remote(path: str) -> bool:
    """Whether a path is on gs://."""
    return path.startswith("gs://")


# --- local files -----------------------------------------------------------------------------


def _local(path: str) -> str:
    if "://" in path:
        raise UserError(f"Expected a local path or gs://BUCKET/KEY; got {path!r}.")
    if not path:
        raise UserError("Expected a path; got an empty one.")
    return path


def _local_status(path: str) -> FileStatus:
    status = os.stat(path)
    return FileStatus(status.st_size, status.st_mtime_ns)


def _local_files_below(folder: str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _write_local(path: str, source: BinaryIO) -> None:
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):  # a device, which must not be replaced
        with open(path, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    # In the same folder, so that renaming is atomic; with a dot, so that no glob matches it.
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # report the first error
            os.remove(temporary)
        raise
    _sync_folder(folder or ".")


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power failure, on file systems that can guarantee it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap_local(path: str, data: bytes, expected: bytes | None) -> bool:
    folder, name = os.path.split(_local(path))
    os.makedirs(folder or ".", exist_ok=True)
    # The system releases the lock when the process ends, however it ends. The lock file stays: were
    # it deleted, two processes could hold locks on two files of the same name.
    with open(os.path.join(folder, f".{name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current = read_bytes(path) if os.path.exists(path) else None
        if current == expected:
            write_bytes(path, data)
            return True
        return current == data


# --- Google Cloud Storage -------------------------------------------------------------------


def _bucket_and_key(path: str):
    bucket, _, key = path.removeprefix("gs://").partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]+[a-z0-9]", bucket):
        raise UserError(f"Expected gs://BUCKET/KEY with a valid bucket name; got {path!r}.")
    return _client(os.environ.get("STORAGE_EMULATOR_HOST")).bucket(bucket), key


def _bucket_and_object(path: str):
    bucket, key = _bucket_and_key(path)
    if not key:
        raise UserError(f"Expected gs://BUCKET/KEY; {path!r} names a bucket without a file.")
    return bucket, key


@functools.cache
def _client(emulator: str | None):
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    client = storage.Client()
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return client


def _blob(path: str):
    """Return the object at a gs:// path, with its metadata."""
    bucket, key = _bucket_and_object(path)
    blob = bucket.get_blob(key)
    if blob is None:
        raise FileNotFoundError("no such object")
    return blob


def _download(path: str) -> tuple[bytes, int]:
    """Return the content of an object and its generation, which changes with every write."""
    from google.api_core.exceptions import NotFound

    bucket, key = _bucket_and_object(path)
    blob = bucket.blob(key)
    try:
        return blob.download_as_bytes(), blob.generation
    except NotFound:
        raise FileNotFoundError("no such object") from None


def _folder(key: str) -> str:
    return key.rstrip("/") + "/" if key else ""


def _glob_one(pattern: str) -> list[str]:
    with _explained("look for", pattern):
        if not is_remote(pattern):
            return [p for p in local_glob.glob(_local(pattern)) if os.path.isfile(p)]
        bucket, key = _bucket_and_key(pattern)
        fixed_part = re.split(r"[*?[]", key, maxsplit=1)[0]
        names = (blob.name for blob in bucket.list_blobs(prefix=fixed_part))
        return [f"gs://{bucket.name}/{name}" for name in names if _matches(name, key)]


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _upload(blob, source: BinaryIO, **conditions) -> None:
    length = source.seek(0, io.SEEK_END)
    blob.upload_from_file(source, rewind=True, size=length, **conditions)


def _swap_remote(path: str, data: bytes, expected: bytes | None) -> bool:
    from google.api_core.exceptions import PreconditionFailed

    try:
        current, generation = _download(path)
    except FileNotFoundError:
        current, generation = None, 0  # 0: only if there is no object
    if current != expected:
        return current == data
    bucket, key = _bucket_and_object(path)
    try:
        _upload(bucket.blob(key), io.BytesIO(data), if_generation_match=generation)
    except PreconditionFailed:
        # Another writer was faster, or this was a retry of a write that had succeeded.
        return _download(path)[0] == data
    return True


def _ignore(_missing_blob) -> None:
    """Ignore an object that was deleted meanwhile."""
