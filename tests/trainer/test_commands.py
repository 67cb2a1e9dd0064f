"""The commands beside the trainer's: what each needs to be told, and what it prints."""

import dataclasses

import pytest

from trainer import evaluate, export, predict
from trainer.common.command_line import help_text, parse
from trainer.common.errors import UserError
from trainer.evaluate import EvaluateConfig
from trainer.export import ExportConfig
from trainer.predict import PredictConfig


@pytest.mark.parametrize(
    "config, argv, message",
    [
        (EvaluateConfig, [], "--eval_data_pattern must be given"),
        (EvaluateConfig, ["--eval_data_pattern="], "--eval_data_pattern must be given"),
        (EvaluateConfig, ["--eval_data_pattern=x", "--top_k=0"], "--top_k must be at least 1"),
        (EvaluateConfig, ["--eval_data_pattern=x", "--batch_size=0"], "--batch_size must be at"),
        (EvaluateConfig, ["--eval_data_pattern=x", "--num_readers=0"], "--num_readers must be at"),
        (EvaluateConfig, ["--eval_data_patern=x"], "Did you mean: eval_data_pattern"),
        (PredictConfig, ["--output_file=x"], "--input_data_pattern must be given"),
        (PredictConfig, ["--input_data_pattern=x"], "--output_file must be given"),
        (
            PredictConfig,
            ["--input_data_pattern=x", "--output_file=y", "--top_k=0"],
            "--top_k must be at least 1",
        ),
        (ExportConfig, [], "--output_dir must be given"),
    ],
)
def test_what_is_missing_or_out_of_range_is_named(config, argv, message):
    with pytest.raises(UserError, match=message):
        parse(config, ["trainer/command.py", *argv])


@pytest.mark.parametrize(
    "config, flag, default",
    [
        (EvaluateConfig, "train_dir", "/tmp/yt8m_model/"),
        (EvaluateConfig, "batch_size", 1024),
        (EvaluateConfig, "num_readers", 8),
        (EvaluateConfig, "top_k", 20),
        (PredictConfig, "batch_size", 512),
        (PredictConfig, "top_k", 20),
    ],
)
def test_the_originals_flags_have_its_defaults(config, flag, default):
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    assert defaults[flag] == default


@pytest.mark.parametrize("config", [EvaluateConfig, ExportConfig, PredictConfig])
def test_help_lists_every_flag_once(config):
    text = help_text(config, "python -m trainer.command")
    for field in dataclasses.fields(config):
        assert text.count(f"--{field.name}=") + text.count(f"--[no]{field.name}\n") == 1


def test_predict_and_export_tell_what_they_wrote(trained, video_shards, tmp_path, capsys):
    predict.main(
        [
            *("trainer/predict.py", f"--train_dir={trained}"),
            *(f"--input_data_pattern={video_shards}", f"--output_file={tmp_path}/p.csv"),
        ]
    )
    export.main(["trainer/export.py", f"--train_dir={trained}", f"--output_dir={tmp_path}/model"])
    assert capsys.readouterr().out == (
        f"Wrote predictions for 37 videos to {tmp_path}/p.csv.\n"
        f"Exported step 10 of {trained} to {tmp_path}/model.\n"
    )
    assert (tmp_path / "p.csv").exists()
    assert (tmp_path / "model" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    "main, argv",
    [
        (evaluate.main, ["--eval_data_pattern=x"]),
        (predict.main, ["--input_data_pattern=x", "--output_file=y"]),
        (export.main, ["--output_dir=x"]),
    ],
    ids=["evaluate", "predict", "export"],
)
def test_without_a_model_they_end_with_one_message(main, argv, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["trainer/command.py", f"--train_dir={tmp_path}", *argv])
    assert str(ended.value.code).startswith(f"error: No model in '{tmp_path}'")
