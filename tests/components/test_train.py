"""The training step: a folder of its own for its inputs, gone on with when they are the same."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import trainer
from components.train import check_num_workers, command_line, train, train_folder, trainer_config
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

    def run(fingerprint="0123", run_id="", output_dir=tmp_path, **parameters) -> str:
        config = trainer_config(FLAGS | {"num_epochs": 1} | parameters)
        train_dir = train_folder(config, str(output_dir), fingerprint, run_id)
        train(data, train_dir, command_line(config))
        assert Path(train_dir).parent == Path(output_dir) / "train"
        return Path(train_dir).name

    return run


def test_a_recipe_overrides_parameters_and_further_flags_override_the_recipe():
    recipe = Path(trainer.__file__).parent / "recipes" / "mlp.flags"
    flags = f"'--flagfile={recipe}' --num_epochs=2"
    config = trainer_config({"model": "MoeModel", "num_epochs": 5, "trainer_flags": flags})
    assert (config.model, config.batch_size, config.num_epochs) == ("GatedMlpModel", 512, 2)
    assert config.model_flags["gated_mlp_blocks"] == 1


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_run_that_reuses_no_training_has_a_folder_of_its_own(step):
    names = [step(max_steps=1, run_id=run_id) for run_id in ("", "run-1", "run-2", "run-1")]
    assert len(set(names)) == 3
    assert names[1] == names[3]  # a retry resumes


def test_checkpoints_are_saved_by_time_unless_told_otherwise():
    assert trainer_config({}).checkpoint_minutes == 5
    config = trainer_config({"trainer_flags": "--checkpoint_minutes=30"})
    assert config.checkpoint_minutes == 30
    assert trainer_config({"clip_gradient_norm": 0.0}).clip_gradient_norm == 0.0


def test_the_folder_depends_on_the_number_of_workers():
    config = trainer_config(FLAGS)
    folders = [train_folder(config, "output", "0123", "", number) for number in (1, 2, 3)]
    assert len(set(folders)) == 3
    assert train_folder(config, "output", "0123") == folders[0]


def key(parameters: dict | None = None, **arguments) -> str:
    config = trainer_config(FLAGS | (parameters or {}))
    return train_folder(config, "output", **{"data_key": "0123"} | arguments)


def test_the_folder_depends_on_the_libraries():
    assert key(libraries="a") != key(libraries="b")


def test_the_folder_depends_on_what_the_trainers_code_does(tmp_path, monkeypatch):
    source = tmp_path / "trainer" / "losses.py"
    source.parent.mkdir()
    monkeypatch.setattr(trainer, "__file__", str(source.with_name("__init__.py")))
    keys = []
    for code in ("loss = 1", "loss = 1  # a comment", "loss = 2"):
        source.write_text(code)
        keys.append(key())
    assert keys[0] == keys[1] != keys[2]


def test_the_folder_depends_on_the_content_of_a_flagfile(tmp_path):
    flagfile = tmp_path / "flags"
    flags = {"trainer_flags": f"--flagfile={flagfile}"}
    flagfile.write_text("--seed=1\n")
    first = key(flags)
    flagfile.write_text("--seed=1\n\n")
    assert key(flags) == first == key({"trainer_flags": "--seed=1"})
    flagfile.write_text("--seed=2\n")
    assert key(flags) != first


def test_every_worker_needs_a_file(tmp_path):
    for number in range(2):
        (tmp_path / f"train{number}").touch()
    check_num_workers(2, f"{tmp_path}/train*")
    with pytest.raises(UserError, match="number of training files; got 3 workers and 2 files in"):
        check_num_workers(3, f"{tmp_path}/train*")


def test_there_is_a_worker():
    check_num_workers(1)
    with pytest.raises(UserError, match="num_workers must be at least 1; got 0"):
        check_num_workers(0)


@pytest.mark.parametrize("count, num_gpu, require_gpu", [("0", 0, False), ("2", 2, True)])
def test_a_training_that_is_given_gpus_requires_them(count, num_gpu, require_gpu):
    config = trainer_config({"num_gpu": count})
    assert (config.num_gpu, config.require_gpu) == (num_gpu, require_gpu)


def test_parameters_that_are_no_flags_are_for_other_steps():
    assert trainer_config({"gate_min_gap": 0.5, "output_dir": "x"}) == trainer_config({})


def test_the_command_line_gives_the_same_flags_again(tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text("--optimizer=MomentumOptimizer\n--noskip_bad_records\n")
    text = f"--flagfile={flagfile} --base_learning_rate=0.1 '--feature_names=a, b'"
    given = {"feature_sizes": "1,2", "batch_size": 7, "trainer_flags": text}
    config = trainer_config(given)
    argv = command_line(config)
    assert "--optimizer=MomentumOptimizer" in argv  # the train step does not need the flagfile
    assert trainer_config({"trainer_flags": shlex.join(argv)}) == config


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"trainer_flags": "--modle=MoeModel"}, "Unknown command line flag 'modle'"),
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
