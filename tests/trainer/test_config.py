"""The trainer's flags: the documented ones held literally, and their ranges."""

import dataclasses
import subprocess
import sys

import pytest

from pipeline.paths import ROOT
from trainer.common.command_line import help_text, parse
from trainer.common.errors import UserError
from trainer.config import MODEL_FLAGS, TrainConfig, record_format
from trainer.data.records import Feature, RecordFormat

# The flags that google/youtube-8m documents: name, type, default.
DOCUMENTED = [
    ("train_dir", str, "/tmp/yt8m_model/"),
    ("train_data_pattern", str, None),
    ("feature_names", str, "mean_rgb"),
    ("feature_sizes", str, "1024"),
    ("frame_features", bool, False),
    ("model", str, "LogisticModel"),
    ("start_new_model", bool, False),
    ("num_gpu", int, 1),
    ("batch_size", int, 1024),
    ("label_loss", str, "CrossEntropyLoss"),
    ("regularization_penalty", float, 1.0),
    ("base_learning_rate", float, 0.01),
    ("learning_rate_decay", float, 0.95),
    ("learning_rate_decay_examples", float, 4000000.0),
    ("num_epochs", int, 5),
    ("max_steps", int, None),
    ("export_model_steps", int, 1000),
    ("num_readers", int, 8),
    ("optimizer", str, "AdamOptimizer"),
    ("clip_gradient_norm", float, 1.0),
    ("log_device_placement", bool, False),
]
# Its model flags.
DOCUMENTED_OF_MODELS = [
    ("moe_num_mixtures", int, 2),
    ("iterations", int, 30),
    ("dbof_add_batch_norm", bool, True),
    ("sample_random_frames", bool, True),
    ("dbof_cluster_size", int, 8192),
    ("dbof_hidden_size", int, 1024),
    ("dbof_pooling_method", str, "max"),
    ("dbof_activation", str, "sigmoid"),
    ("video_level_classifier_model", str, "MoeModel"),
    ("lstm_cells", int, 1024),
    ("lstm_layers", int, 2),
]
# Values that flags of text may have; the last one is not the default.
NAMES = {
    "train_dir": ["abc", "gs://bucket/folder"],
    "train_data_pattern": ["abc", "gs://bucket/a*.tfrecord,b*.tfrecord"],
    "feature_names": ["mean_rgb", "abc"],
    "feature_sizes": ["1024", "7"],
    "model": ["LogisticModel", "MoeModel"],
    "label_loss": ["CrossEntropyLoss", "SoftmaxLoss", "HingeLoss"],
    "optimizer": ["AdamOptimizer", "GradientDescentOptimizer", "MomentumOptimizer"],
    "dbof_pooling_method": ["max", "average"],
    "dbof_activation": ["sigmoid", "relu6"],
    "video_level_classifier_model": ["MoeModel", "LogisticModel"],
}
FRAME_LEVEL_MODELS = [
    "AttentionModel",
    "DbofModel",
    "FrameLevelLogisticModel",
    "GruModel",
    "LstmModel",
    "NeXtVladModel",
    "NetVladModel",
]


def parsed(*argv: str) -> TrainConfig:
    return parse(TrainConfig, ["trainer/train.py", *argv])


@pytest.mark.parametrize("name, kind, default", DOCUMENTED + DOCUMENTED_OF_MODELS)
def test_a_documented_flag_has_its_type_and_default(name, kind, default):
    assert getattr(parsed(), name) == default
    others = ["--model=DbofModel"] if name == "frame_features" else []
    for given in NAMES.get(name, {int: ["7"], float: ["0.5", "3"], bool: ["true"]}.get(kind)):
        value = getattr(parsed(*others, f"--{name}={given}"), name)
        assert type(value) is kind
        assert value == (given == "true" if kind is bool else kind(given))
    if kind is not str:
        with pytest.raises(UserError, match=f"--{name}"):
            parsed(f"--{name}=abc")


@pytest.mark.parametrize(
    "name, value, choices",
    [
        ("label_loss", "Hinge", ["CrossEntropyLoss", "HingeLoss", "SoftmaxLoss"]),
        ("dbof_pooling_method", "none", ["average", "max"]),
        ("dbof_activation", "tanh", ["relu6", "sigmoid"]),
        ("video_level_classifier_model", "DbofModel", ["LogisticModel", "MoeModel"]),
        ("log_format", "xml", ["json", "text"]),
    ],
)
def test_a_name_that_there_is_not_names_the_choices(name, value, choices):
    with pytest.raises(UserError) as raised:
        parsed(f"--{name}={value}")
    assert str(raised.value) == f"--{name} must be one of {choices}; got {value!r}."


@pytest.mark.parametrize("name, mistyped", [("model", "Logistic"), ("optimizer", "Adam")])
def test_models_and_optimizers_are_chosen_by_their_full_names(name, mistyped):
    with pytest.raises(UserError, match=rf"--{name} must be one of \[.*; got '{mistyped}'\."):
        parsed(f"--{name}={mistyped}")


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_a_video_level_model_takes_no_frames(name):
    with pytest.raises(UserError) as raised:
        parsed(f"--model={name}", "--frame_features")
    assert str(raised.value) == (
        f"--model={name} takes video-level features; got --frame_features. Say "
        f"--noframe_features, or choose one of {FRAME_LEVEL_MODELS}."
    )


@pytest.mark.parametrize("name", FRAME_LEVEL_MODELS)
def test_a_frame_level_model_takes_nothing_but_frames(name):
    assert parsed(f"--model={name}", "--frame_features").model == name
    with pytest.raises(UserError) as raised:
        parsed(f"--model={name}")
    assert str(raised.value) == (
        f"--model={name} takes frame-level features; got --noframe_features. Say "
        "--frame_features, or choose one of ['GatedMlpModel', 'KernelModel', 'LogisticModel', "
        "'MoeModel', 'RoutedExpertsModel']."
    )


def test_help_lists_every_flag_once():
    text = help_text(TrainConfig, "python -m trainer.train")
    for field in dataclasses.fields(TrainConfig):
        assert text.count(f"--{field.name}=") + text.count(f"--[no]{field.name}\n") == 1


def test_help_of_every_command_imports_neither_tensorflow_nor_beam():
    script = """
import runpy, sys
for command in ("train", "evaluate", "export", "predict"):
    sys.argv = [f"trainer/{command}.py", "--help"]
    try:
        runpy.run_module(f"trainer.{command}", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
print({"tensorflow", "keras", "apache_beam", "google.cloud.storage", "kfp"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.count("usage: ") == 4
    assert "  --train_data_pattern=TEXT\n" in done.stdout
    assert done.stdout.endswith("\nset()\n")


@pytest.mark.parametrize(
    "mistyped, meant",
    [
        ("base_learning_rat=1", "base_learning_rate"),
        ("batchsize=1", "batch_size"),
        ("train_data_patern=x", "train_data_pattern"),
        ("frame_feature", "frame_features"),
        ("optimiser=AdamOptimizer", "optimizer"),
    ],
)
def test_a_mistyped_flag_suggests_the_right_one(mistyped, meant):
    with pytest.raises(UserError, match=rf"Did you mean: {meant}\b"):
        parsed(f"--{mistyped}")


@pytest.mark.parametrize(
    "name, value, message",
    [
        *[
            (name, value, f"--{name} must be at least 1; got {value}.")
            for name in (
                "num_classes",
                "num_readers",
                "moe_num_mixtures",
                "batch_size",
                "num_epochs",
                "export_model_steps",
                "keep_checkpoints",
                "iterations",
                "dbof_cluster_size",
                "dbof_hidden_size",
                "lstm_cells",
                "lstm_layers",
                "gru_cells",
                "gru_layers",
                "vlad_cluster_size",
                "nextvlad_groups",
                "nextvlad_expansion",
                "attention_heads",
                "pooling_hidden_size",
            )
            for value in (0, -1)
        ],
        *[
            (name, value, f"--{name} must be positive; got {float(value)}.")
            for name in (
                "base_learning_rate",
                "learning_rate_decay",
                "learning_rate_decay_examples",
                "checkpoint_minutes",
            )
            for value in (0, -0.5, "nan")
        ],
        *[
            (name, value, f"--{name} must not be negative; got {float(value)}.")
            for name in ("regularization_penalty", "clip_gradient_norm")
            for value in (-0.5, "nan")
        ],
        ("num_gpu", -1, "--num_gpu must not be negative; got -1."),
        *[
            ("pooling_dropout", value, f"--pooling_dropout must be in [0, 1); got {value}.")
            for value in (-0.1, 1.0, "nan")
        ],
        ("max_steps", -1, "--max_steps must not be negative; got -1."),
        (
            "feature_sizes",
            "3,2",
            "--feature_names and --feature_sizes must have the same length; got 1 names "
            "('mean_rgb') and 2 sizes ('3,2').",
        ),
    ],
)
def test_a_value_out_of_range_is_named(name, value, message):
    with pytest.raises(UserError) as raised:
        parsed(f"--{name}={value}")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "flag",
    ["num_gpu=0", "max_steps=0", "regularization_penalty=0", "clip_gradient_norm=0", "seed=0"],
)
def test_zero_is_allowed_where_it_means_none(flag):
    assert getattr(parsed(f"--{flag}"), flag.removesuffix("=0")) == 0


def test_the_config_is_read_once_and_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed().batch_size = 2


def test_the_model_flags_are_those_that_shape_the_model():
    config = parsed("--model=MoeModel", "--num_classes=7", "--moe_num_mixtures=3")
    assert tuple(config.model_flags) == MODEL_FLAGS
    assert set(MODEL_FLAGS) <= {field.name for field in dataclasses.fields(TrainConfig)}
    assert config.model_flags["moe_num_mixtures"] == 3


def test_the_record_format_follows_the_flags():
    config = parsed(
        "--feature_names=mean_rgb, mean_audio", "--feature_sizes=1024, 128", "--num_classes=9"
    )
    expected = RecordFormat((Feature("mean_rgb", 1024), Feature("mean_audio", 128)), False, 9)
    assert config.record_format == record_format(config.model_flags) == expected
    assert expected.width == 1152
    frames = parsed("--frame_features", "--model=DbofModel", "--feature_names=rgb").record_format
    assert frames == RecordFormat((Feature("rgb", 1024),), True, 3862)
