"""The training step: a folder of its own for its inputs, gone on with when they are the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.train import train
from trainer.common.errors import UserError
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records

FLAGS = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3, "batch_size": 2}


@pytest.fixture
def data(tmp_path) -> str:
    path = str(tmp_path / "train.tfrecord")
    video = {"id": b"a", "labels": np.array([1]), "rgb": [1.0, 2.0]}
    write_records(path, [encode_example(video)] * 6)
    return path


@pytest.fixture
def step(data, tmp_path):
    """step(...): trains for up to 3 steps; returns the name of the train_dir."""

    def run(fingerprint="0123", trainer_flags="", output_dir=tmp_path, **flags) -> str:
        flags = FLAGS | {"num_epochs": 1} | flags
        train_dir = Path(train(data, str(output_dir), fingerprint, flags, trainer_flags))
        assert train_dir.parent == Path(output_dir) / "train"
        return train_dir.name

    return run


def steps_of(train_dir) -> list[str]:
    return sorted(path.name for path in (train_dir / "checkpoints").glob("step-*"))


def test_trains_in_a_folder_of_its_own(step, tmp_path):
    train_dir = tmp_path / "train" / step(model="MoeModel")
    assert steps_of(train_dir) == ["step-00000003"]
    assert json.loads((train_dir / "model_flags.json").read_text())["model"] == "MoeModel"


def test_the_same_inputs_are_trained_once(step, tmp_path):
    first = step()
    checkpoint = tmp_path / "train" / first / "checkpoints" / "step-00000003"
    made = checkpoint.stat().st_mtime_ns
    assert step() == first
    assert checkpoint.stat().st_mtime_ns == made


def test_the_folder_depends_on_data_and_flags_and_not_on_where_it_is(step, tmp_path):
    names = [
        step(max_steps=1),
        step(fingerprint="4567", max_steps=1),
        step(max_steps=2),
        step(trainer_flags="--max_steps=1 --seed=1"),
    ]
    assert len(set(names)) == 4
    assert step(trainer_flags="--max_steps=1") == names[0]
    assert step(max_steps=1, output_dir=tmp_path / "elsewhere") == names[0]


def test_flags_may_be_given_as_text(step, tmp_path):
    name = step(trainer_flags="--model MoeModel '--train_dir=/nowhere' --max_steps=1")
    assert steps_of(tmp_path / "train" / name) == ["step-00000001"]
    assert not Path("/nowhere").exists()


def test_a_flag_of_none_has_its_default(step):
    step(max_steps=None, seed=None)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"modle": "MoeModel"}, "Unknown command line flag 'modle'"),
        ({"batch_size": 0}, "--batch_size must be at least 1"),
        ({"trainer_flags": "--optimiser=Adam"}, "Did you mean: optimizer"),
        ({"trainer_flags": "MoeModel"}, "must be a --flag; got 'MoeModel'"),
        ({"trainer_flags": "--model='MoeModel"}, "trainer_flags"),
    ],
)
def test_a_mistaken_flag_is_named_before_anything_is_made(step, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        step(**flags)
    assert not (tmp_path / "train").exists()
