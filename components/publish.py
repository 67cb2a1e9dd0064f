"""Publishes an exported model: python -m components.publish --model_dir=... --publish_dir=...

In `publish_dir`, local or gs://:

    champion.json   the version of the published model, and its metrics
    VERSION/        a model that was published; VERSION is the time of its export, yyyymmddhhmmss
                    in UTC

A model's folder is complete before champion.json names it, and does not change afterwards, so a
reader that follows champion.json never sees an incomplete model. Older versions are kept: to roll
back to one, publish its folder again.
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
    """Publish an exported model, replacing the one that is published now.

    Raises:
        UserError: A flag is missing.
    """

    model_dir: str = flag("", "Folder of the exported model.", "Files")
    publish_dir: str = flag("", "Folder of the published models, local or gs://.", "Files")
    metrics_file: str = flag("", "metrics.json of the model's evaluation.", "Files")
    expected_champion: str = flag(
        "",
        "Version that is published now and will be replaced. Empty: no model is published.",
        "Files",
    )

    def __post_init__(self):
        for name in ("model_dir", "publish_dir", "metrics_file"):
            if not getattr(self, name):
                raise UserError(f"--{name} must be given. Try --help.")


def main(argv: list[str]):
    """Run the command."""
    with without_traceback():
        config = parse(PublishConfig, argv)
        version = publish(
            config.model_dir, config.publish_dir, config.metrics_file, config.expected_champion
        )
        print(f"published: {storage.join(config.publish_dir, version)}")


def publish(
    model_dir: str, publish_dir: str, metrics_file: str, expected_champion: str | None
) -> str:
    """Publish an exported model. Publishing it again is safe, also after an error.

    Args:
        model_dir: Folder of the exported model.
        publish_dir: Folder of the published models, local or gs://.
        metrics_file: JSON with "challenger", the metrics of the model.
        expected_champion: Version that is published now; None or "" if no model is.

    Returns:
        The version.

    Raises:
        UserError: A model other than `expected_champion` is published, or a file cannot be read or
            written. The published model has not changed.
    """
    version = _version(model_dir)
    metrics = storage.read_json(metrics_file, "challenger")["challenger"]
    pointer = storage.join(publish_dir, POINTER)
    # Read before the check: if the pointer changes after it, the replacement at the end fails.
    before = storage.read_bytes(pointer) if storage.exists(pointer) else None
    published = _published_version(publish_dir)
    if published not in (version, expected_champion or None):
        raise _conflict(publish_dir, published, expected_champion)

    folder = storage.join(publish_dir, version)
    # Claim the folder first: two models exported in the same second would have the same version.
    manifest = storage.read_bytes(storage.join(model_dir, MANIFEST))
    if not storage.replace_if(storage.join(folder, MANIFEST), manifest, expected=None):
        raise UserError(
            f"{folder!r} holds another model, exported in the same second. Export this model again."
        )
    if published == version:
        return version
    storage.copy_tree(model_dir, folder)
    after = json.dumps({"version": version, "metrics": metrics}, indent=1) + "\n"
    if not storage.replace_if(pointer, after.encode(), expected=before):
        raise _conflict(publish_dir, _published_version(publish_dir), expected_champion)
    return version


def read_champion(publish_dir: str) -> Champion | None:
    """Return the model that is published in `publish_dir`, or None.

    Raises:
        UserError: champion.json is damaged, or the model that it names does not exist.
    """
    pointer = storage.join(publish_dir, POINTER)
    if not storage.exists(pointer):
        return None
    champion = storage.read_json(pointer, "version", "metrics")
    folder = storage.join(publish_dir, champion["version"])
    if not storage.exists(storage.join(folder, MANIFEST)):
        raise UserError(
            f"{pointer!r} names the published model {folder!r}, which does not exist. Restore it, "
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
            f"Expected an ISO 8601 time for 'created' in {manifest!r}; got {created!r}."
        ) from None
    return time.astimezone(datetime.UTC).strftime("%Y%m%d%H%M%S")


def _conflict(publish_dir: str, published: str | None, expected: str | None) -> UserError:
    return UserError(
        f"Not published: the published model in {publish_dir!r} is {published or 'none'} now, but "
        f"this model was compared with {expected or 'none'}. Run the pipeline again to compare "
        "the two."
    )


if __name__ == "__main__":
    main(sys.argv)
