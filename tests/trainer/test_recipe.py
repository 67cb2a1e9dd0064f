"""Recipes: their flags are valid, and stages follow one another."""

import pytest
import tensorflow as tf

from trainer import recipe
from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.evaluation import evaluator
from trainer.recipe import RecipeConfig, names, run, stages, train_config
from trainer.serving import loading


def config_of(name, **flags):
    return RecipeConfig(recipe=name, train_data_pattern="a*", train_dir="/models", **flags)


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_valid_flags(name):
    trained = [stage for stage in stages(name) if stage[0] != "average"]
    configs = [train_config(stage, config_of(name, seed=3)) for stage in trained]
    assert all(config.seed == 3 for config in configs)
    # What is averaged has held out the same videos.
    if len(configs) > 1:
        assert len({config.calibration_fraction for config in configs}) == 1


def test_the_teacher_is_the_folder_of_an_earlier_stage():
    config = train_config(["s", "mlp.flags", "--teacher_dir=kernel"], config_of("best"))
    assert config.teacher_dir == "/models/kernel"
    assert config.train_dir == "/models/s"


def test_an_unknown_recipe_names_those_that_there_are():
    with pytest.raises(UserError, match=r"--recipe must be one of \[.*'moe'.*\]; got 'nothing'"):
        config_of("nothing")


@pytest.mark.slow
def test_stages_are_trained_and_averaged(make_config, tmp_path, monkeypatch):
    (tmp_path / "kernel.flags").write_text("--model=KernelModel\n--kernel_centers=50\n")
    (tmp_path / "net.flags").write_text("--model=LogisticModel\n")
    (tmp_path / "both.stages").write_text(
        "# comment\na kernel.flags\n\nb net.flags --teacher_dir=a\naverage a b\n"
    )
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    small = make_config()
    flags = "--feature_names=rgb,audio --feature_sizes=3,2 --num_classes=5 --batch_size=8"
    config = RecipeConfig(
        recipe="both",
        train_data_pattern=small.train_data_pattern,
        train_dir=str(tmp_path / "model"),
        trainer_flags=f"{flags} --calibration_fraction=0.3",
    )
    run(config)
    files = sorted(tf.io.gfile.glob(small.train_data_pattern))
    batch = next(iter(input_pipeline.batches(files, small.record_format, 8)))
    once = loading.load(config.train_dir).predict(batch).numpy()
    run(config)  # complete already
    assert (loading.load(config.train_dir).predict(batch).numpy() == once).all()


@pytest.mark.slow
def test_the_best_recipe_beats_a_floor_on_real_records(real_data, tmp_path):
    shards = f"{real_data}/yt8m2018/video/validate000"
    config = RecipeConfig(
        recipe="best",
        train_data_pattern=f"{shards}[0-5].tfrecord",
        train_dir=str(tmp_path / "model"),
        trainer_flags="--num_epochs=10 --batch_size=64 --warmup_steps=10 --kernel_centers=2000",
    )
    run(config)
    gaps = [
        evaluator.evaluate(folder, f"{shards}[67].tfrecord").metrics["gap"]
        for folder in (config.train_dir, f"{config.train_dir}/student")
    ]
    assert gaps[0] > 0.45
    assert gaps[0] > gaps[1]
