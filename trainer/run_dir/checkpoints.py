"""Checkpoints of a training run: written atomically, read back by variable name.

train_dir/
    model_flags.json        the flags that define the model
    checkpoints/
        step-00001000/      complete: the folder gets this name once all its files are written
            variables.*     weights, optimizer slots and step (tf.train.Checkpoint, checksummed)
            state.json      position in the data, order of the data, flags, and a checksum

tf.train.Checkpoint stores the variables. tf.train.CheckpointManager is not used: it does not write
the variables and the position in the data as one atomic unit, and does not fall back to an earlier
checkpoint if the newest one is damaged.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from trainer.common import storage
from trainer.common.errors import UserError, reason
from trainer.config import TrainConfig
from trainer.data.input_pipeline import Position

MODEL_FLAGS_FILE = "model_flags.json"

# Exceptions on reading a damaged checkpoint. TensorFlow's reader raises Python's own as well.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    AssertionError,
    tf.errors.OpError,
)

# A key of tf.train.Checkpoint: "model.Sclasses.Skernel/.ATTRIBUTES/VARIABLE_VALUE" is the variable
# "model/classes/kernel".
_KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Earlier versions of the trainer stored the model's variables as a list.
_POSITIONAL_KEY = re.compile(rf"model/\d+{re.escape(_KEY_SUFFIX)}")

_NAMES_IN_MESSAGE = 5


@dataclass(frozen=True)
class State:
    """State of a training run besides its variables.

    Attributes:
        step: number of steps done.
        position: position in the training data.
        order: identifier of the order of the videos that `position` refers to.
        flags: the trainer's flags.
    """

    step: int
    position: Position
    order: str
    flags: dict


def save(train_dir: str, variables: Mapping[str, tf.Variable], state: State, keep: int):
    """Write a checkpoint, then remove all but the newest `keep`.

    Checkpoints of later steps are removed as well: `restore` found them unreadable.

    Args:
        train_dir: a local folder.
        variables: name -> variable.
        state: the rest of the run's state.
        keep: number of checkpoints to keep.

    Raises:
        UserError: the checkpoint cannot be written, e.g. because the disk is full. Earlier
            checkpoints are unchanged.
    """
    folder = _folder(train_dir)
    final = folder / f"step-{state.step:08d}"
    partial = folder / f"partial-{final.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tf.train.Checkpoint(**variables).write(str(partial / "variables"))
        (partial / "state.json").write_text(_encode_state(state))
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        if final.exists():  # unreadable: `restore` went back to an earlier one
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        earlier = " Earlier checkpoints are intact." if _complete(train_dir) else ""
        raise UserError(
            f"Cannot write the checkpoint of step {state.step} to {folder}: {reason(error)}."
            f"{earlier}"
        ) from error
    for path in _complete(train_dir):
        if _step(path) > state.step:
            shutil.rmtree(path)
    remove_old(train_dir, state.step, keep)


def restore(
    train_dir: str, variables: Mapping[str, tf.Variable], subset: bool = False
) -> State | None:
    """Load the newest readable checkpoint into `variables`.

    A damaged checkpoint is skipped with a warning.

    Args:
        train_dir: a local folder.
        variables: name -> variable, as they were saved.
        subset: whether the checkpoint may hold further variables, e.g. those of the optimizer.

    Returns:
        The state that was saved with the variables; None if there is no checkpoint.

    Raises:
        UserError: no checkpoint is readable, or the newest readable one holds variables of other
            names, shapes or types, or was written by an earlier version of the trainer.
    """
    folders = _complete(train_dir)
    for folder in reversed(folders):
        try:
            mismatch = _mismatch(folder, variables, subset)
            if not mismatch:
                state = _read_state(folder)
                reader = tf.train.Checkpoint(**variables).read(str(folder / "variables"))
                reader.assert_existing_objects_matched().expect_partial()
                return state
        except UNREADABLE as error:
            logging.warning(
                "Cannot read the checkpoint %s (%s). Trying the one before it.",
                folder,
                reason(error),
            )
        else:
            raise UserError(mismatch)
    if folders:
        raise UserError(
            f"None of the {len(folders)} checkpoints in {folders[0].parent} is readable. Start a "
            "new model with --start_new_model, or give another --train_dir."
        )
    return None


def _mismatch(folder: Path, variables: Mapping[str, tf.Variable], subset: bool) -> str:
    """Describe how a checkpoint differs from `variables`; "" if it does not."""
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    if any(map(_POSITIONAL_KEY.fullmatch, shapes)):
        return (
            f"The checkpoint {folder} was written by an earlier version of the trainer, which "
            "stored variables by position. This version expects them by name. Start a new model "
            "with --start_new_model, or give another --train_dir."
        )
    saved = {
        _unescape(key.removesuffix(_KEY_SUFFIX)): _describe(dtypes[key], shapes[key])
        for key in shapes
        if key.endswith(_KEY_SUFFIX)
    }
    expected = {name: _describe(v.dtype, v.shape) for name, v in variables.items()}
    differences = {
        "missing": sorted(expected.keys() - saved.keys()),
        "unexpected": [] if subset else sorted(saved.keys() - expected.keys()),
        "different": [
            f"{name} (expected {expected[name]}, found {saved[name]})"
            for name in sorted(expected.keys() & saved.keys())
            if expected[name] != saved[name]
        ],
    }
    listed = "; ".join(f"{what}: {_shorten(n)}" for what, n in differences.items() if n)
    return listed and (
        f"The variables in the checkpoint {folder} do not fit the model and the optimizer: "
        f"{listed}. Give the flags that it was written with, another --train_dir, or "
        "--start_new_model."
    )


def _unescape(key: str) -> str:
    """Name of a variable from its key: TensorFlow writes "/" as ".S" and "." as ".."."""
    return re.sub(r"\.([.S])", lambda match: "." if match[1] == "." else "/", key)


def _describe(dtype: tf.DType, shape) -> str:
    return f"{dtype.name} {list(shape)}"


def _shorten(names: list[str]) -> str:
    more = len(names) - _NAMES_IN_MESSAGE
    listed = ", ".join(names[:_NAMES_IN_MESSAGE])
    return f"{listed} and {more} more" if more > 0 else listed


def _encode_state(state: State) -> str:
    content = asdict(state)
    return json.dumps(content | {"sha256": _checksum(content)}, indent=1)


def _read_state(folder: Path) -> State:
    content = json.loads((folder / "state.json").read_text())
    if not isinstance(content, dict) or content.pop("sha256", None) != _checksum(content):
        raise ValueError("state.json does not match its checksum")
    if content["step"] != _step(folder):
        raise ValueError(f"state.json is that of step {content['step']}")
    return State(**content | {"position": Position(**content["position"])})


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def newest_state(train_dir: str) -> State | None:
    """Return the state of the newest checkpoint whose state is readable; None if there is none."""
    for folder in reversed(_complete(train_dir)):
        with contextlib.suppress(*UNREADABLE):
            return _read_state(folder)
    return None


def latest_step(train_dir: str) -> int | None:
    """Return the step of the newest checkpoint; None if there is none."""
    folders = _complete(train_dir)
    return _step(folders[-1]) if folders else None


def remove_old(train_dir: str, step: int, keep: int):
    """Remove all but the newest `keep` checkpoints up to `step`."""
    for path in [path for path in _complete(train_dir) if _step(path) <= step][:-keep]:
        shutil.rmtree(path)


def remove_all(train_dir: str):
    """Remove checkpoints, exported models and model flags, and nothing else in `train_dir`."""
    for name in ("checkpoints", "export"):
        shutil.rmtree(Path(train_dir) / name, ignore_errors=True)
    (Path(train_dir) / MODEL_FLAGS_FILE).unlink(missing_ok=True)


def remove_leftovers(train_dir: str):
    """Remove incomplete files that a killed trainer left. No other trainer may be running here."""
    for name in ("checkpoints", "export"):
        for partial in (Path(train_dir) / name).glob("partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
    storage.remove_temporary_files(str(Path(train_dir) / MODEL_FLAGS_FILE))


def keep_model_flags(train_dir: str, model_flags: dict):
    """Write the flags that define the model, before its first checkpoint.

    Raises:
        UserError: there are checkpoints of a model with other flags, or the folder cannot be
            written to.
    """
    kept = read_model_flags(train_dir)
    if kept == model_flags:
        return
    if kept is not None and latest_step(train_dir) is not None:
        different = [
            f"--{name} was {kept.get(name)!r}, is now {model_flags.get(name)!r}"
            for name in sorted(kept | model_flags)
            if kept.get(name) != model_flags.get(name)
        ]
        raise UserError(
            f"{train_dir} holds a model with other flags: {'; '.join(different)}. Give the same "
            "flags or another --train_dir, or remove that model with --start_new_model."
        )
    text = json.dumps(model_flags, indent=1) + "\n"
    storage.write_text(str(Path(train_dir) / MODEL_FLAGS_FILE), text)


def read_model_flags(train_dir: str) -> dict | None:
    """Return the flags that define the model in `train_dir`; None if there is none."""
    path = Path(train_dir) / MODEL_FLAGS_FILE
    try:
        # A model that is older than a flag was created with the flag's default.
        return TrainConfig().model_flags | json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"Cannot read {path}: {reason(error)}.") from error


def _folder(train_dir: str) -> Path:
    return Path(train_dir) / "checkpoints"


def _complete(train_dir: str) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    folders = _folder(train_dir).glob("step-*")
    return sorted(folders, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sync(path: Path):
    """Flush a file or folder to disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
