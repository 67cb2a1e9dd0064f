"""Publishes an exported model: python -m components.publish --model_dir=... --publish_dir=...

In `publish_dir`, local or gs://:

    champion.json   points at the published model: its version and its metrics
    <version>/      one model each, by the time it was exported: yyyymmddhhmmss, in UTC

A model's folder is complete before the pointer names it, and never changes afterwards. So read the
pointer, and nothing is ever half published. Older versions stay: to go back to one, publish it
again.
"""

import datetime
import json
import sys
from dataclasses import dataclass

from trainer.common import storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback

POINTER = "champion.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Champion:
    """The published model: its version, its folder, and its metrics when it was published."""

    version: str
    path: str
    metrics: dict


@dataclass(frozen=True)
class PublishConfig:
    """Publishes an exported model, in place of the one that is published now.

    Raises:
        UserError: a flag is missing.
    """

    model_dir: str = flag("", "The exported model's folder.", "Files")
    publish_dir: str = flag("", "Where models are published.", "Files")
    metrics_file: str = flag("", "The metrics.json of the model's evaluation.", "Files")
    expected_champion: str = flag(
        "", "The version that is published now, which is to be replaced. Empty: none is.", "Files"
    )

    def __post_init__(self):
        for name in ("model_dir", "publish_dir", "metrics_file"):
            if not getattr(self, name):
                raise UserError(f"--{name} must be given. Try --help.")


def main(argv: list[str]):
    """Publishes as the flags say."""
    with without_traceback():
        config = parse(PublishConfig, argv)
        version = publish(
            config.model_dir, config.publish_dir, config.metrics_file, config.expected_champion
        )
        print(f"published: {storage.join(config.publish_dir, version)}")


def publish(
    model_dir: str, publish_dir: str, metrics_file: str, expected_champion: str | None
) -> str:
    """Publishes an exported model. To do so again, after an error too, is safe.

    Args:
        model_dir: The exported model's folder.
        publish_dir: Where models are published.
        metrics_file: JSON with "challenger": the model's metrics.
        expected_champion: The version that is published now; None or "": none is.

    Returns:
        The version.

    Raises:
        UserError: another model than `expected_champion` is published; or a file cannot be read or
            written. What was published before still is.
    """
    version = _version(model_dir)
    metrics = storage.read_json(metrics_file, "challenger")["challenger"]
    pointer = storage.join(publish_dir, POINTER)
    # In this order: if the pointer changes in between, the swap at the end fails.
    before = storage.read_bytes(pointer) if storage.exists(pointer) else None
    published = _published_version(publish_dir)
    if published not in (version, expected_champion or None):
        raise _overtaken(publish_dir, published, expected_champion)

    folder = storage.join(publish_dir, version)
    # Claims the folder: a model that was exported in the same second must not mix with this one.
    manifest = storage.read_bytes(storage.join(model_dir, MANIFEST))
    if not storage.replace_if(storage.join(folder, MANIFEST), manifest, expected=None):
        raise UserError(f"{folder!r} holds another model of the same second; export this anew.")
    if published == version:
        return version
    storage.copy_tree(model_dir, folder)
    after = json.dumps({"version": version, "metrics": metrics}, indent=1) + "\n"
    if not storage.replace_if(pointer, after.encode(), expected=before):
        raise _overtaken(publish_dir, _published_version(publish_dir), expected_champion)
    return version


def read_champion(publish_dir: str) -> Champion | None:
    """The model that is published in `publish_dir`; None if none is.

    Raises:
        UserError: the pointer is damaged, or the model that it names is gone.
    """
    pointer = storage.join(publish_dir, POINTER)
    if not storage.exists(pointer):
        return None
    champion = storage.read_json(pointer, "version", "metrics")
    folder = storage.join(publish_dir, champion["version"])
    if not storage.exists(storage.join(folder, MANIFEST)):
        raise UserError(
            f"{pointer!r} says that {folder!r} is published, but no model is there. Put it back, "
            f"or delete {pointer!r} to start without a published model."
        )
    return Champion(champion["version"], folder, champion["metrics"])


def _published_version(publish_dir: str) -> str | None:
    champion = read_champion(publish_dir)
    return champion.version if champion else None


def _version(model_dir: str) -> str:
    manifest = storage.join(model_dir, MANIFEST)
    created = storage.read_json(manifest, "created")["created"]
    try:
        time = datetime.datetime.fromisoformat(created)
    except (TypeError, ValueError):
        raise UserError(
            f"Expected a time under 'created' in {manifest!r}; got {created!r}."
        ) from None
    return time.astimezone(datetime.UTC).strftime("%Y%m%d%H%M%S")


def _overtaken(publish_dir: str, published: str | None, expected: str | None) -> UserError:
    return UserError(
        f"Not published: {published or 'no model'} is the published model in {publish_dir!r} now, "
        f"but this one was compared with {expected or 'none'}. Compare them, and publish again."
    )


if __name__ == "__main__":
    main(sys.argv)
