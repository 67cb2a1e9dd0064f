"""Retention: delete old versions, runs and trainings."""

from datetime import UTC, datetime, timedelta

from components.registry import registry
from trainer.common import storage
from trainer.common.errors import UserError

# What is younger may be in use by a run in progress.
MIN_AGE = timedelta(days=2)


def prune(
    output_dir: str,
    publish_dir: str,
    keep_versions: int,
    keep_runs: int,
    dry_run: bool = False,
    now: datetime | None = None,
) -> list[str]:
    """Delete old versions, runs and trainings, and what killed publishers left.

    The champion and its last `keep_versions` predecessors are kept, with the runs and the trainings
    that made them, and so are the newest `keep_runs` runs. Nothing younger than `MIN_AGE` is
    deleted.

    Args:
        output_dir: Folder with train/ and runs/.
        publish_dir: The registry.
        keep_versions: Number of versions before the champion to keep.
        keep_runs: Number of runs to keep.
        dry_run: Delete nothing.
        now: The current time, for tests.

    Returns:
        The folders that were deleted, or would be.

    Raises:
        UserError: A number is negative, or a file cannot be read or deleted.
    """
    for name, number in (("keep_versions", keep_versions), ("keep_runs", keep_runs)):
        if number < 0:
            raise UserError(f"--{name} must be 0 or more; got {number}.")
    latest = (now or datetime.now(UTC)) - MIN_AGE
    champion = registry.read_champion(publish_dir)
    kept_versions, old_versions = _versions(publish_dir, champion, keep_versions)
    manifests = [registry.read_manifest(publish_dir, version) for version in kept_versions]
    needed_runs = {manifest.get("lineage", {}).get("run_dir") for manifest in manifests}
    runs = _started(storage.join(output_dir, "runs"))
    newest = sorted(runs, key=runs.get, reverse=True)[:keep_runs]
    old_runs = [
        run
        for run, started in runs.items()
        if run not in newest and run not in needed_runs and started < latest
    ]
    needed = {manifest.get("lineage", {}).get("train_dir") for manifest in manifests}
    needed |= {_train_dir(run) for run in runs if run not in old_runs}
    trainings = _started(storage.join(output_dir, "train"))
    old_trainings = [f for f, started in trainings.items() if f not in needed and started < latest]
    folders = [storage.join(publish_dir, registry.SERVED, version) for version in old_versions]
    folders += old_runs + old_trainings + _abandoned(publish_dir, champion, latest)
    for folder in [] if dry_run else folders:
        storage.delete_tree(folder)
    return folders


def _versions(
    publish_dir: str, champion: registry.Champion | None, keep: int
) -> tuple[list[str], list[str]]:
    """Return the versions to keep and those to delete."""
    found = registry.versions(publish_dir)
    if champion is None:
        return found, []
    before = [version for version in found if int(version) < int(champion.version)]
    old = before[: max(len(before) - keep, 0)]
    return [version for version in found if version not in old], old


def _started(folder: str) -> dict[str, datetime]:
    """Return each folder of a run or training in `folder`, and when its last step started."""
    found: dict[str, datetime] = {}
    for name in storage.files_below(folder):
        path, _, file = name.rpartition("/steps/")
        if path and "/" not in path and file.endswith(".json"):
            record = storage.read_json(storage.join(folder, name), "started")
            started = _time(record["started"])
            path = storage.join(folder, path)
            found[path] = max(found.get(path, started), started)
    return found


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)  # unknown: keep it


def _train_dir(run_dir: str) -> str | None:
    plan = storage.join(run_dir, "plan.json")
    return storage.read_json(plan).get("train_dir") if storage.exists(plan) else None


def _abandoned(publish_dir: str, champion: registry.Champion | None, latest: datetime) -> list[str]:
    """Return the folders of staging/ that killed publishers left."""
    folder = storage.join(publish_dir, registry.STAGING)
    names = {name.partition("/")[0] for name in storage.files_below(folder)}
    old = [name for name in names if name < f"{latest:{registry.STAGING_TIME}}"]
    paths = [storage.join(folder, name) for name in sorted(old)]
    return [path for path in paths if not (champion and champion.path == path)]
