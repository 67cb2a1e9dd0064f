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
    published = storage.read_json(storage.join(champion.path, MANIFEST))
    run_dir = published.get("lineage", {}).get("run_dir")
    names = ("feature_names", "feature_sizes", "frame_features", "num_classes")
    old_flags = published.get("model_flags", {})
    if not run_dir or any(old_flags.get(name) != model_flags[name] for name in names):
        return ""
    path = storage.join(run_dir, "validation/statistics.json")
    return path if storage.exists(path) else ""


def _data(path: str) -> dict:
    files = manifest.read(path)
    return {
        "manifest": path,
        "content_key": files.content_key,
        "files": len(files.files),
        "records": files.num_records,
    }


def _read(run_dir: str, name: str) -> dict:
    path = storage.join(run_dir, name)
    return storage.read_json(path) if storage.exists(path) else {}
