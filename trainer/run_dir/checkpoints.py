"""Checkpoints: complete, atomic, few.

train_dir/
    model_flags.json        the flags that shape the model
    checkpoints/
        step-00001000/      a checkpoint is whole when its folder has this name
            variables.*     weights, optimizer slots, step (tf.train.Checkpoint, with checksums)
            state.json      position in the data, the run's flags
"""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from trainer.common.errors import UserError, reason
from trainer.config import TrainConfig
from trainer.data.input_pipeline import Position

MODEL_FLAGS_FILE = "model_flags.json"

# What reading a broken checkpoint raises. TensorFlow's reader turns its errors into Python's own.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    AssertionError,
    tf.errors.OpError,
)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds beside the variables."""

    step: int
    position: Position
    order: str  # identifies the order of the videos that `position` counts in
    flags: dict


def save(train_dir: str, variables: dict[str, tf.Variable], state: State, keep: int):
    """Writes a checkpoint, then removes all but the newest `keep`.

    Raises:
        UserError: it cannot be written (a full disk, say); earlier checkpoints are untouched.
    """
    folder = _folder(train_dir)
    final = folder / f"step-{state.step:08d}"
    partial = folder / f"partial-{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tf.train.Checkpoint(**variables).write(str(partial / "variables"))
        (partial / "state.json").write_text(json.dumps(asdict(state), indent=1))
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        if final.exists():  # one that could not be read: restore() went back behind it
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        earlier = " Earlier checkpoints there are whole." if _whole(train_dir) else ""
        raise UserError(
            f"The checkpoint of step {state.step} cannot be written to {folder}: "
            f"{reason(error)}.{earlier}"
        ) from error
    for old in _whole(train_dir)[:-keep]:
        shutil.rmtree(old)


def restore(train_dir: str, variables: dict[str, tf.Variable]) -> State | None:
    """Loads the newest checkpoint that can be read; None when there is none.

    A broken one is passed over with a warning. The variables must have been created.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    folders = _whole(train_dir)
    for folder in reversed(folders):
        try:
            state = _read_state(folder)
            reader = tf.train.Checkpoint(**variables).read(str(folder / "variables"))
            reader.assert_existing_objects_matched().expect_partial()
            return state
        except UNREADABLE as error:
            logging.warning(
                "Checkpoint %s cannot be read (%s); trying the one before it.",
                folder,
                reason(error),
            )
    if folders:
        raise UserError(
            f"None of the {len(folders)} checkpoints in {folders[0].parent} can be read."
        )
    return None


def _read_state(folder: Path) -> State:
    state = json.loads((folder / "state.json").read_text())
    return State(state["step"], Position(**state["position"]), state["order"], state["flags"])


def latest_step(train_dir: str) -> int | None:
    """The step of the newest checkpoint; None when there is none."""
    folders = _whole(train_dir)
    return _step(folders[-1]) if folders else None


def remove_all(train_dir: str):
    """Removes the checkpoints, the model's flags and its exports; nothing else in `train_dir`."""
    for name in ("checkpoints", "export"):
        shutil.rmtree(Path(train_dir) / name, ignore_errors=True)
    (Path(train_dir) / MODEL_FLAGS_FILE).unlink(missing_ok=True)


def keep_model_flags(train_dir: str, model_flags: dict):
    """Writes down the flags that shape the model, before its first checkpoint.

    Raises:
        UserError: there are checkpoints of a model of another shape, or the folder cannot be
            written to.
    """
    kept = read_model_flags(train_dir)
    if kept == model_flags:
        return
    if kept is not None and latest_step(train_dir) is not None:
        different = [
            f"--{name} was {kept.get(name)!r}, now {model_flags.get(name)!r}"
            for name in sorted(kept | model_flags)
            if kept.get(name) != model_flags.get(name)
        ]
        raise UserError(
            f"{train_dir} holds a model of another shape: {'; '.join(different)}. Give the same "
            "flags, another --train_dir, or --start_new_model to remove that model."
        )
    path = Path(train_dir) / MODEL_FLAGS_FILE
    temporary = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(model_flags, indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"--train_dir cannot be written to: {reason(error)}.") from error


def read_model_flags(train_dir: str) -> dict | None:
    """The kept flags; None when there are none."""
    path = Path(train_dir) / MODEL_FLAGS_FILE
    try:
        # A flag that is newer than the model has its default: what the model was made without.
        return TrainConfig().model_flags | json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def _folder(train_dir: str) -> Path:
    return Path(train_dir) / "checkpoints"


def _whole(train_dir: str) -> list[Path]:
    """The folders of whole checkpoints, oldest first."""
    folders = _folder(train_dir).glob("step-*")
    return sorted(folders, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sync(path: Path):
    """Makes what was written to a file or folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
