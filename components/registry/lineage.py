"""Lineage of a model: the data, code, images and run that made it."""

from pathlib import Path

import trainer
from components.code_digest import code_digest
from components.registry.registry import MANIFEST, read_champion
from trainer.common import storage
from trainer.data import manifest


def lineage(run_dir: str) -> dict:
    """Return the lineage of the model that a run made.

    Returns:
        "run_id", "run_dir", "commit", "code_digest", "images" (name -> image), "libraries"
        (identifies the locks), "parameters", "data" (split -> {"manifest", "content_key", "files",
        "records"}), "train_dir" and "verdict" (content of verdict.json).
    """
    run, plan = _read(run_dir, "run.json"), _read(run_dir, "plan.json")
    return run | {
        "run_dir": run_dir,
        "code_digest": code_digest(Path(trainer.__file__).parent),
        "data": {split: _data(plan[f"{split}_data"]) for split in ("train", "eval") if plan},
        "train_dir": plan.get("train_dir"),
        "verdict": _read(run_dir, "verdict.json"),
    }


def training_statistics(publish_dir: str, model_flags: dict) -> str:
    """Return the path of the statistics of the data that the published model was trained on.

    Args:
        publish_dir: The registry.
        model_flags: Flags of the model that is about to be trained.

    Returns:
        A statistics.json; "" if no model is published, its run was deleted, or its records have
        another format.

    Raises:
        UserError: The registry is damaged.
    """
    champion = read_champion(publish_dir)
    if champion is None:
        return ""
    names = ("feature_names", "feature_sizes", "frame_features", "num_classes")
    old_flags = _read(champion.path, MANIFEST).get("model_flags", {})
    if any(old_flags.get(name) != model_flags[name] for name in names):
        return ""
    return statistics_of(champion.path)


def statistics_of(model_dir: str) -> str:
    """Return the path of the statistics of the data that a published model was trained on.

    Args:
        model_dir: Folder of the model. Only a published one tells which run made it.

    Returns:
        A statistics.json; "" if the run is unknown or was deleted.
    """
    run_dir = _read(model_dir, MANIFEST).get("lineage", {}).get("run_dir")
    path = storage.join(run_dir or "", "validation/statistics.json")
    return path if run_dir and storage.exists(path) else ""


def _data(path: str) -> dict:
    files = manifest.read(path)
    return {
        "manifest": path,
        "content_key": files.content_key,
        "files": len(files.files),
        "records": files.num_records,
    }


def _read(folder: str, name: str) -> dict:
    path = storage.join(folder, name)
    return storage.read_json(path) if storage.exists(path) else {}
