"""Checkpoints: complete, atomic, few; a broken one costs no more than itself."""

import contextlib
import dataclasses
import json
import logging
import resource
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data.input_pipeline import Position
from trainer.run_dir import checkpoints
from trainer.run_dir.checkpoints import State

STATE = State(7, Position(1, 24), "0123456789abcdef", {"batch_size": 8, "max_steps": None})


def variables(value: float = 0.0, size: int = 3) -> dict[str, tf.Variable]:
    """Variables of a checkpoint: `weights` [size], all of one value, and a step."""
    weights = tf.Variable(tf.fill([size], value))
    return {"weights": weights, "steps": tf.Variable(0, dtype=tf.int64)}


def save(train_dir, step: int, keep: int = 3, size: int = 3):
    """Saves weights of the value `step`."""
    state = dataclasses.replace(STATE, step=step)
    checkpoints.save(str(train_dir), variables(float(step), size), state, keep)


def restored(train_dir, size: int = 3) -> float | None:
    """The value of the newest readable checkpoint's weights, after checking the state."""
    target = variables(-1.0, size)
    state = checkpoints.restore(str(train_dir), target)
    if state is None:
        assert (target["weights"].numpy() == -1).all()
        return None
    assert (target["weights"].numpy() == state.step).all()
    return float(state.step)


def names(train_dir) -> list[str]:
    return sorted(path.name for path in (Path(train_dir) / "checkpoints").iterdir())


def test_what_is_saved_is_restored(tmp_path):
    saved = variables()
    saved["weights"].assign([1.5, -0.0, np.pi])
    saved["steps"].assign(2**40)
    checkpoints.save(str(tmp_path), saved, STATE, 3)
    target = variables()
    assert checkpoints.restore(str(tmp_path), target) == STATE
    assert target["weights"].numpy().tobytes() == saved["weights"].numpy().tobytes()
    assert int(target["steps"]) == 2**40


def test_nothing_is_restored_where_nothing_was_saved(tmp_path):
    assert restored(tmp_path) is None
    assert restored(tmp_path / "not there") is None
    assert checkpoints.latest_step(str(tmp_path)) is None


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 9, 10, 100):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert checkpoints.latest_step(str(tmp_path)) == 100
    assert restored(tmp_path) == 100


def test_a_step_of_more_digits_than_the_name_has_is_the_newest(tmp_path):
    save(tmp_path, 99_999_999)
    save(tmp_path, 100_000_000)
    assert restored(tmp_path) == 100_000_000


def test_half_a_checkpoint_is_no_checkpoint(tmp_path):
    # What a process that was killed while writing leaves.
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "step-00000001", folder / "partial-step-00000002")
    assert restored(tmp_path) == 1
    save(tmp_path, 2)
    assert restored(tmp_path) == 2
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def damage_variables(folder: Path):
    data = folder / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[2] ^= 0xFF  # in the first variable's values
    data.write_bytes(content)


DAMAGES = {
    "a changed byte": damage_variables,
    "cut variables": lambda folder: truncate(folder / "variables.data-00000-of-00001"),
    "cut index": lambda folder: truncate(folder / "variables.index"),
    "no variables": lambda folder: (folder / "variables.data-00000-of-00001").unlink(),
    "no index": lambda folder: (folder / "variables.index").unlink(),
    "empty state": lambda folder: (folder / "state.json").write_text(""),
    "state of another form": lambda folder: (folder / "state.json").write_text('{"step": 3}'),
    "state that is no object": lambda folder: (folder / "state.json").write_text("null"),
    "state of another checkpoint": lambda folder: shutil.copy(
        folder.parent / "step-00000002/state.json", folder
    ),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "an empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
}


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_broken_newest_checkpoint_falls_back_with_a_warning(tmp_path, damage, caplog):
    for step in (1, 2, 3):
        save(tmp_path, step)
    damage(tmp_path / "checkpoints" / "step-00000003")
    with caplog.at_level(logging.WARNING):
        assert restored(tmp_path) == 2
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "root"]
    assert "Cannot read the checkpoint" in warning
    assert "step-00000003 (" in warning
    # Training goes on, and replaces the broken one when it comes to that step again.
    save(tmp_path, 3)
    assert restored(tmp_path) == 3


@pytest.mark.parametrize("keep", [1, 2])
def test_a_new_checkpoint_outlives_a_broken_one_of_a_later_step(tmp_path, keep):
    for step in (1, 9):
        save(tmp_path, step)
    damage_variables(tmp_path / "checkpoints" / "step-00000009")
    assert restored(tmp_path) == 1
    save(tmp_path, 2, keep)
    assert names(tmp_path) == ["step-00000001", "step-00000002"][-keep:]
    assert restored(tmp_path) == 2


def test_old_checkpoints_are_removed_and_broken_later_ones_stay(tmp_path):
    for step in (1, 2, 3, 9):
        save(tmp_path, step, keep=4)
    checkpoints.remove_old(str(tmp_path), step=3, keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000009"]


def test_any_change_of_the_state_is_noticed(tmp_path, caplog):
    save(tmp_path, 7)
    file = tmp_path / "checkpoints/step-00000007/state.json"
    content = file.read_text()
    for old, new in [
        ('"step": 7', '"step": 8'),
        ('"epoch": 1', '"epoch": 0'),
        ('"epoch": 1', '"epoch": "1"'),
        ('"videos": 24', '"videos": 2'),
        ('"videos"', '"video"'),
        ("0123456789abcdef", "0123456789abcdee"),
        ('"batch_size": 8', '"batch_size": 9'),
        ('"flags": {', '"flag": {'),
        ('"sha256": "', '"sha256": "0'),
    ]:
        assert old in content
        file.write_text(content.replace(old, new))
        with pytest.raises(UserError, match="None of the 1 checkpoints"):
            restored(tmp_path)
    assert caplog.text.count("state.json does not match its checksum") == 9


def test_what_a_killed_trainer_left_is_removed(tmp_path):
    save(tmp_path, 1)
    checkpoints.keep_model_flags(str(tmp_path), flags())
    leftovers = [
        tmp_path / "checkpoints/partial-step-00000002",
        tmp_path / "export/partial-step-00000002",
    ]
    for folder in leftovers:
        folder.mkdir(parents=True)
        (folder / "variables.index").touch()
    leftovers.append(tmp_path / f".model_flags.json.{'0' * 32}.tmp")
    leftovers[-1].touch()
    (tmp_path / ".notes.txt.tmp").touch()  # not the trainer's
    checkpoints.remove_leftovers(str(tmp_path))
    assert not any(path.exists() for path in leftovers)
    assert names(tmp_path) == ["step-00000001"]
    assert (tmp_path / "model_flags.json").exists()
    assert (tmp_path / ".notes.txt.tmp").exists()


def test_with_every_checkpoint_broken_nothing_is_started_anew(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        damage_variables(tmp_path / "checkpoints" / f"step-{step:08d}")
    with pytest.raises(UserError, match=r"None of the 2 checkpoints in .* is readable"):
        restored(tmp_path)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_checkpoint_of_other_shapes_is_not_loaded(tmp_path):
    save(tmp_path, 1, size=3)
    with pytest.raises(UserError) as raised:
        restored(tmp_path, size=4)
    assert str(raised.value) == (
        f"The variables in the checkpoint {tmp_path}/checkpoints/step-00000001 do not fit the "
        "model and the optimizer: different: weights (expected float32 [4], found float32 [3]). "
        "Give the flags that it was written with, another --train_dir, or --start_new_model."
    )


def test_a_checkpoint_without_a_variable_that_is_needed_is_not_loaded(tmp_path):
    save(tmp_path, 1)
    needs_more = variables()
    needs_more["slots"] = tf.Variable([0.0])
    with pytest.raises(UserError, match=r"do not fit .*: missing: slots\."):
        checkpoints.restore(str(tmp_path), needs_more)


def test_a_checkpoint_with_a_variable_that_is_not_expected_is_not_loaded(tmp_path):
    saved = variables()
    saved |= {f"old/v.{number}": tf.Variable([0.0]) for number in range(7)}
    checkpoints.save(str(tmp_path), saved, STATE, 3)
    expected = r"unexpected: old/v\.0, old/v\.1, old/v\.2, old/v\.3, old/v\.4 and 2 more\."
    with pytest.raises(UserError, match=expected):
        checkpoints.restore(str(tmp_path), variables())


def test_a_variable_of_another_type_is_not_loaded(tmp_path):
    save(tmp_path, 1)
    other = variables() | {"steps": tf.Variable(0, dtype=tf.int32)}
    with pytest.raises(UserError, match=r"steps \(expected int32 \[\], found int64 \[\]\)"):
        checkpoints.restore(str(tmp_path), other)


def model(*names) -> dict[str, tf.Variable]:
    """The variables of a model of layers of these names, all of the same shape."""
    layers = keras.Sequential([keras.layers.Dense(2, name=name) for name in names], name="net")
    layers.build([None, 2])
    return {f"model/{variable.path}": variable.value for variable in layers.variables}


def test_layers_in_another_order_get_their_own_weights(tmp_path):
    saved = model("first", "second")
    checkpoints.save(str(tmp_path), saved, STATE, 3)
    target = model("second", "first")
    assert checkpoints.restore(str(tmp_path), target) == STATE
    for name in ("model/net/first/kernel", "model/net/second/kernel"):
        assert (target[name].numpy() == saved[name].numpy()).all()


def test_a_checkpoint_by_position_is_told_apart(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints/step-00000001"
    by_position = tf.train.Checkpoint(
        model=[tf.Variable([1.0])], optimizer=[{"m": tf.Variable([0.0])}], steps=tf.Variable(1)
    )
    by_position.write(str(folder / "variables"))
    with pytest.raises(UserError) as raised:
        restored(tmp_path)
    assert str(raised.value) == (
        f"The checkpoint {folder} was written by an earlier version of the trainer, which stored "
        "variables by position. This version expects them by name. Start a new model with "
        "--start_new_model, or give another --train_dir."
    )


def test_a_model_is_loaded_without_its_optimizer(tmp_path):
    saved = variables(5.0)
    saved["slots"] = tf.Variable([0.0])
    checkpoints.save(str(tmp_path), saved, dataclasses.replace(STATE, step=5), 3)
    target = variables()
    assert checkpoints.restore(str(tmp_path), target, subset=True).step == 5
    assert (target["weights"].numpy() == 5).all()


@contextlib.contextmanager
def no_file_larger_than(size: int):
    """Lets writes beyond `size` bytes fail, as they do on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 100, 200, 1000, 4096, 10_000, 39_000])
def test_wherever_writing_fails_the_earlier_checkpoints_stay_whole(tmp_path, size):
    # The variables take 40,000 bytes, their index and the state some hundred.
    save(tmp_path, 1, size=10_000)
    with (
        pytest.raises(UserError, match="Cannot write the checkpoint of step 2") as raised,
        no_file_larger_than(size),
    ):
        save(tmp_path, 2, keep=1, size=10_000)
    assert str(raised.value).endswith("File too large. Earlier checkpoints are intact.")
    assert names(tmp_path) == ["step-00000001"]
    assert restored(tmp_path, size=10_000) == 1
    save(tmp_path, 2, keep=1, size=10_000)  # there is room again
    assert restored(tmp_path, size=10_000) == 2


def test_no_earlier_checkpoints_are_spoken_of_where_there_are_none(tmp_path):
    with pytest.raises(UserError, match=r"File too large\.$"), no_file_larger_than(0):
        save(tmp_path, 1)
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_earlier_checkpoints_whole(small_disk):
    save(small_disk, 1, size=10_000)
    save(small_disk, 2, size=10_000)
    for _ in range(2):
        with pytest.raises(UserError, match="No space left on device"):
            save(small_disk, 3, size=40_000)
        assert names(small_disk) == ["step-00000001", "step-00000002"]
        assert restored(small_disk, size=10_000) == 2


def test_a_train_dir_that_is_a_file(tmp_path):
    (tmp_path / "model").write_text("not a folder")
    with pytest.raises(UserError, match="model"):
        save(tmp_path / "model", 1)
    with pytest.raises(UserError, match="model"):
        checkpoints.keep_model_flags(str(tmp_path / "model"), flags())
    assert (tmp_path / "model").read_text() == "not a folder"


# The flags that shape the model.


def flags(**changes) -> dict:
    return TrainConfig(**{"num_classes": 5} | changes).model_flags


def test_model_flags_are_kept(tmp_path):
    train_dir = str(tmp_path / "new" / "model")
    assert checkpoints.read_model_flags(train_dir) is None
    checkpoints.keep_model_flags(train_dir, flags())
    assert checkpoints.read_model_flags(train_dir) == flags()
    content = json.loads((tmp_path / "new/model/model_flags.json").read_text())
    assert content["model"] == "LogisticModel"


def test_the_same_flags_may_be_kept_again(tmp_path):
    checkpoints.keep_model_flags(str(tmp_path), flags())
    save(tmp_path, 1)
    checkpoints.keep_model_flags(str(tmp_path), flags())


def test_flags_of_another_model_are_refused_once_there_is_a_checkpoint(tmp_path):
    checkpoints.keep_model_flags(str(tmp_path), flags())
    save(tmp_path, 1)
    other = flags(model="MoeModel", num_classes=6)
    with pytest.raises(UserError) as raised:
        checkpoints.keep_model_flags(str(tmp_path), other)
    assert str(raised.value) == (
        f"{tmp_path} holds a model with other flags: --model was 'LogisticModel', is now "
        "'MoeModel'; --num_classes was 5, is now 6. Give the same flags or another --train_dir, or "
        "remove that model with --start_new_model."
    )
    assert checkpoints.read_model_flags(str(tmp_path)) == flags()


def test_flags_of_a_run_that_never_saved_a_checkpoint_are_replaced(tmp_path):
    checkpoints.keep_model_flags(str(tmp_path), flags(feature_sizes="512"))
    checkpoints.keep_model_flags(str(tmp_path), flags())
    assert checkpoints.read_model_flags(str(tmp_path)) == flags()


@pytest.mark.parametrize("content", ["", "{", '["model"]', "5"])
def test_broken_model_flags_are_named(tmp_path, content):
    (tmp_path / "model_flags.json").write_text(content)
    with pytest.raises(UserError, match=r"model_flags\.json"):
        checkpoints.read_model_flags(str(tmp_path))


def test_starting_anew_removes_what_the_trainer_made_and_nothing_else(tmp_path):
    checkpoints.keep_model_flags(str(tmp_path), flags())
    save(tmp_path, 1)
    (tmp_path / "export" / "step-00000001").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.remove_all(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    checkpoints.remove_all(str(tmp_path))  # where there is nothing to remove
    checkpoints.remove_all(str(tmp_path / "not there"))
