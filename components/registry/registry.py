"""Publish models, roll back, and read which model is published.

A registry, a local directory or gs:// prefix:

    champion.json          the published model: its version, metrics and digest
    served/VERSION/        models that were published, numbered from 1: a layout that TensorFlow
                           Serving and KServe read as it is. The highest number is the champion, so
                           a rollback publishes the old model under a new number.
    history/NNNNNNNN.json  one file for each version, never changed: what was published, when, why
    staging/ID/            a model on its way to served/

A model is first copied to staging/. Then champion.json is replaced if it is still the one that the
model was compared with: this is the moment at which the model is published, and of several
publishers one succeeds. Only then, the history is written and the model moves to served/. If the
publisher is killed before the move, the old model is still served, `Champion.path` is the complete
copy in staging/, and the next command that writes to the registry finishes the move.
"""

import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from components.registry import model_card
from trainer.common import storage
from trainer.common.errors import UserError

POINTER, MANIFEST = "champion.json", "manifest.json"
SERVED, HISTORY, STAGING = "served", "history", "staging"
STAGING_TIME = "%Y%m%d%H%M%S"  # begins the name of a folder in staging/

# Written last where a folder cannot be renamed: a server loads a version that has them.
LAST_FILES = ("saved_model.pb", MANIFEST)


@dataclass(frozen=True)
class Champion:
    """The published model.

    Attributes:
        version: Its number.
        path: Its folder.
        metrics: Metric name -> value, when it was published.
    """

    version: str
    path: str
    metrics: dict


def publish(
    model_dir: str,
    publish_dir: str,
    metrics_file: str,
    expected_champion: str | None,
    lineage: dict | None = None,
) -> str:
    """Publish an exported model. Publishing it again is safe, also after an error.

    Args:
        model_dir: Folder of the exported model.
        publish_dir: The registry.
        metrics_file: metrics.json of the model's evaluation.
        expected_champion: Version that is published now; None or "" if no model is.
        lineage: What made the model, for its manifest.

    Returns:
        The version.

    Raises:
        UserError: A model other than `expected_champion` is published, or a file cannot be read or
            written. The published model has not changed.
    """
    exported = storage.read_bytes(storage.join(model_dir, MANIFEST))
    manifest = storage.read_json(storage.join(model_dir, MANIFEST))
    metrics = storage.read_json(metrics_file, "challenger")
    details = {
        "action": "publish",
        "metrics": metrics["challenger"],
        "comparison": metrics.get("comparison"),
        "lineage": lineage or {},
    }
    digest = hashlib.sha256(exported).hexdigest()
    return _publish(publish_dir, model_dir, manifest, digest, expected_champion or None, details)


def promote(publish_dir: str, version: str, reason: str = "", action: str = "promote") -> str:
    """Publish a version again, under a new number; return the number.

    Raises:
        UserError: There is no such version, or it is published already.
    """
    champion = read_champion(publish_dir)
    if champion and champion.version == version:
        raise UserError(f"Version {version} is the published model already.")
    folder = storage.join(publish_dir, SERVED, version)
    manifest = read_manifest(publish_dir, version)
    details = {
        "action": action,
        "of_version": manifest.get("of_version") or version,
        "reason": reason,
        "metrics": manifest["metrics"],
    }
    current = champion.version if champion else None
    digest = hashlib.sha256(f"{action} {version} after {current}".encode()).hexdigest()
    return _publish(publish_dir, folder, manifest, digest, current, details)


def rollback(publish_dir: str, reason: str = "") -> str:
    """Publish the model that was published before the champion; return its new number.

    Raises:
        UserError: There is no champion, or no model before it that is still there.
    """
    champion = read_champion(publish_dir)
    if champion is None:
        raise UserError(f"No model is published in {publish_dir!r}.")
    entries = {entry["version"]: entry for entry in history(publish_dir)}
    kept = versions(publish_dir)
    for version in _predecessors(entries, champion.version):
        if version in kept:
            return promote(publish_dir, version, reason, "rollback")
    raise UserError(
        f"No model that was published before version {champion.version} is left in "
        f"{publish_dir!r}; its versions are {', '.join(kept)}."
    )


def read_champion(publish_dir: str) -> Champion | None:
    """Return the published model, or None.

    Raises:
        UserError: champion.json is damaged, or the model that it names does not exist.
    """
    pointer = _read_pointer(publish_dir)
    if pointer is None:
        return None
    version = pointer["version"]
    served = storage.join(publish_dir, SERVED, version)
    staging = storage.join(publish_dir, STAGING, pointer["staging"])
    # served/ again: another publisher may move the model after the first look.
    for folder in (served, staging, served):
        if storage.exists(storage.join(folder, MANIFEST)):
            return Champion(version, folder, pointer["metrics"])
    name = storage.join(publish_dir, POINTER)
    raise UserError(
        f"{name!r} names the published model {served!r}, which does not exist. Restore it, "
        f"or delete {name!r} to start without a published model."
    )


def versions(publish_dir: str) -> list[str]:
    """Return the versions that are served or were, in the order of their numbers."""
    folder = storage.join(publish_dir, SERVED)
    found = {name.split("/")[0] for name in storage.files_below(folder)}
    return sorted(filter(str.isdecimal, found), key=int)


def history(publish_dir: str) -> list[dict]:
    """Return what was published, oldest first."""
    folder = storage.join(publish_dir, HISTORY)
    names = [name for name in storage.files_below(folder) if name.endswith(".json")]
    keys = ("version", "action", "time", "parent")
    return [storage.read_json(storage.join(folder, name), *keys) for name in sorted(names)]


def read_manifest(publish_dir: str, version: str) -> dict:
    """Return the manifest of a version.

    Raises:
        UserError: There is no such version, or its manifest is damaged.
    """
    path = storage.join(publish_dir, SERVED, version, MANIFEST)
    if not storage.exists(path):
        known = ", ".join(versions(publish_dir)) or "none"
        raise UserError(f"There is no version {version!r} in {publish_dir!r}; there are {known}.")
    return storage.read_json(path, "version", "metrics")


def finish(publish_dir: str) -> None:
    """Finish what an interrupted publication left: the history and the move to served/."""
    champion = read_champion(publish_dir)
    if champion is None:
        return
    served = storage.join(publish_dir, SERVED, champion.version)
    try:
        manifest = storage.read_json(storage.join(champion.path, MANIFEST))
    except UserError:  # another publisher may have moved the model
        manifest = storage.read_json(storage.join(served, MANIFEST))
    keys = ("version", "action", "time", "parent", "of_version", "reason", "metrics")
    entry = {key: manifest.get(key) for key in keys}
    name = storage.join(publish_dir, HISTORY, f"{int(champion.version):08}.json")
    storage.replace_if(name, (json.dumps(entry, indent=1) + "\n").encode(), expected=None)
    if champion.path != served:
        _move(champion.path, served)


def _publish(
    publish_dir: str,
    source: str,
    manifest: dict,
    digest: str,
    expected: str | None,
    details: dict,
) -> str:
    """Publish the model in the folder `source` after the version `expected`.

    Args:
        publish_dir: The registry.
        source: Folder to copy.
        manifest: Content of its manifest.
        digest: Identifies this publication, so that it can be repeated.
        expected: Version that is published now.
        details: Further content of the new manifest.
    """
    _check_metrics(details["metrics"], "The model's evaluation")
    before = _pointer_bytes(publish_dir)
    champion = _read_pointer(publish_dir)
    if champion and champion["digest"] == digest:
        finish(publish_dir)
        return champion["version"]
    if (champion["version"] if champion else None) != expected:
        raise _conflict(publish_dir, expected)
    finish(publish_dir)
    version = str(int(expected or 0) + 1)
    manifest = manifest | {
        "version": version,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent": expected,
        "of_version": None,
        "reason": "",
        **details,
    }
    name = f"{datetime.now(UTC):{STAGING_TIME}}{uuid.uuid4().hex}"
    staging = storage.join(publish_dir, STAGING, name)
    pointer = {
        "version": version,
        "metrics": details["metrics"],
        "digest": digest,
        "staging": name,
    }
    try:
        storage.copy_tree(source, staging)
        model_card.write(staging, manifest)
        _write_json(storage.join(staging, MANIFEST), manifest)
        data = (json.dumps(pointer, indent=1) + "\n").encode()
        published = storage.replace_if(storage.join(publish_dir, POINTER), data, expected=before)
    except BaseException:
        if _is_not_published(publish_dir, name):
            with contextlib.suppress(UserError):  # the first error matters more
                storage.delete_tree(staging)
        raise
    if not published:
        storage.delete_tree(staging)
        raise _conflict(publish_dir, expected)
    finish(publish_dir)
    return version


def _is_not_published(publish_dir: str, staging: str) -> bool:
    """Whether champion.json is known not to name a folder of staging/."""
    with contextlib.suppress(UserError):
        pointer = _read_pointer(publish_dir)
        return pointer is None or pointer["staging"] != staging
    return False


def _move(source: str, destination: str) -> None:
    """Move a folder, so that a server never finds it incomplete.

    Others may move the same folder at the same time.
    """
    if not storage.is_remote(source):
        os.makedirs(os.path.dirname(destination), exist_ok=True)
        try:
            os.rename(source, destination)
        except OSError as error:
            if not storage.exists(storage.join(destination, MANIFEST)):
                raise UserError(f"Cannot move {source!r} to {destination!r}: {error}.") from error
        return
    names = storage.files_below(source)
    for name in sorted(names, key=lambda name: (name in LAST_FILES, name == MANIFEST)):
        with contextlib.suppress(UserError), storage.open_read(storage.join(source, name)) as file:
            storage.write_file(storage.join(destination, name), file)
    missing = set(names) - set(storage.files_below(destination))
    if missing:
        raise UserError(f"Cannot move {source!r} to {destination!r}: {sorted(missing)} is missing.")
    storage.delete_tree(source)


def _pointer_bytes(publish_dir: str) -> bytes | None:
    path = storage.join(publish_dir, POINTER)
    return storage.read_bytes(path) if storage.exists(path) else None


def _read_pointer(publish_dir: str) -> dict | None:
    """Return the content of champion.json, or None.

    Raises:
        UserError: It is damaged.
    """
    path = storage.join(publish_dir, POINTER)
    if not storage.exists(path):
        return None
    pointer = storage.read_json(path, "version", "metrics", "digest", "staging")
    for key in ("version", "digest", "staging"):
        if not isinstance(pointer[key], str) or not pointer[key].isalnum():
            raise UserError(f"Expected a text for {key!r} in {path!r}; got {pointer[key]!r}.")
    if not pointer["version"].isdecimal():
        raise UserError(f"Expected a number for 'version' in {path!r}; got {pointer['version']!r}.")
    _check_metrics(pointer["metrics"], repr(path))
    return pointer


def _check_metrics(metrics, name: str) -> None:
    values = metrics.values() if isinstance(metrics, dict) else [metrics]
    for value in values:
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name} must have finite numbers as metrics; got {metrics!r}.")


def _predecessors(entries: dict[str, dict], version: str) -> Iterator[str]:
    """Yield the versions with the models that were published before that of `version`.

    A rollback publishes an old model again: what came before it is what came before that model.
    """
    while True:
        entry = entries.get(version, {})
        first = entries.get(entry.get("of_version") or version, {})
        version = first.get("parent")
        if version is None:
            return
        yield version


def _write_json(path: str, content: dict) -> None:
    storage.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _conflict(publish_dir: str, expected: str | None) -> UserError:
    champion = _read_pointer(publish_dir)
    published = champion["version"] if champion else "none"
    return UserError(
        f"Not published: the published model in {publish_dir!r} is {published} now, but "
        f"this model was compared with {expected or 'none'}. Run the pipeline again to compare "
        "the two."
    )
