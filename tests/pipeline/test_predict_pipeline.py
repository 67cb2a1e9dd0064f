"""The pipeline of batch prediction: compiled, checked, and run on this machine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.predict.inputs import read_record_format, resolve_model
from pipeline.__main__ import main
from pipeline.checks import check
from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.graphs import load
from pipeline.parameters import with_defaults
from pipeline.paths import COMPILED, ROOT, compiled_files
from pipeline.run import known_parameters
from pipeline.schedule import ScheduleConfig
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data.examples import encode_example
from trainer.data.tfrecord import write_records

STEPS = ["validate-records", "predict", "report-predictions"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = str(tmp_path_factory.mktemp("build"))
    return compile_pipeline(CompileConfig(output_dir=folder), pipeline="predict")


def spec(file: Path) -> dict:
    return next(yaml.safe_load_all(file.read_text()))


def test_every_pipeline_has_a_name_of_its_own_for_its_files():
    assert set(COMPILED) == {"train", "predict"}
    assert all(load(name).NAME for name in COMPILED)
    names = [file for name in COMPILED for file in compiled_files(Path("build"), name).values()]
    assert len(set(names)) == 4


def test_steps_run_in_their_images(files):
    executors = spec(files["kubeflow"])["deploymentSpec"]["executors"]
    images = {name.removeprefix("exec-"): e["container"]["image"] for name, e in executors.items()}
    assert sorted(images) == sorted(STEPS)
    assert [images[step].split(":")[0] for step in STEPS] == [
        "yt8m-data",
        "yt8m-trainer",
        "yt8m-data",
    ]


@pytest.mark.parametrize("target, accelerator", [("kubeflow", "nvidia.com/gpu"), ("vertex", "L4")])
def test_prediction_gets_the_accelerator_of_the_profile(tmp_path, target, accelerator):
    config = CompileConfig(output_dir=str(tmp_path), profile="gke-l4")
    executors = spec(compile_pipeline(config, pipeline="predict")[target])["deploymentSpec"]
    resources = executors["executors"]["exec-predict"]["container"]["resources"]
    assert accelerator in resources["accelerator"]["resourceType"]
    assert resources["accelerator"]["resourceCount"] == "1"
    others = executors["executors"]["exec-validate-records"]["container"]["resources"]
    assert "accelerator" not in others


def test_a_cpu_profile_gives_no_accelerator(files):
    executors = spec(files["kubeflow"])["deploymentSpec"]["executors"]
    assert "accelerator" not in executors["exec-predict"]["container"]["resources"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"output_format": "xml"}, "--output_format must be one of csv, jsonl, parquet"),
        ({"top_k": 0}, "--top_k must be at least 1"),
        ({"min_probability": 2.0}, "--min_probability must be 0 to 1"),
    ],
)
def test_options_are_checked_before_a_run(values, message):
    known = known_parameters("predict")
    defaults = with_defaults({}, known)
    check(defaults)
    with pytest.raises(UserError, match=message):
        check(defaults | values)


def test_submit_schedule_and_doctor(server, files, gcs_bucket, capsys):
    storage.write_bytes(f"{gcs_bucket}/test/0.tfrecord", b"x")
    parameters = {"data": f"{gcs_bucket}/test/*", "output_dir": f"{gcs_bucket}/out"}
    words = [f"--host={server.url}", f"--pipeline={files['kubeflow']}"]
    words += [f"{name}={value}" for name, value in parameters.items()]
    for command in (["submit"], ["schedule", "--cron=0 6 * * *"], ["doctor"]):
        with pytest.raises(SystemExit) as exit:
            main([*command, *words])
        assert exit.value.code == 0 or command == ["doctor"]  # which finds no images
    assert server.only("pipelines")["display_name"] == "yt8m-predict"
    sent = server.only("runs")
    assert re.fullmatch(r"predict-test-\d{8}-\d{6}", sent["display_name"])
    assert sent["runtime_config"] == {"parameters": parameters}
    assert server.only("recurringruns")["runtime_config"] == {"parameters": parameters}
    lines = capsys.readouterr().out.splitlines()
    assert f"ok    data          {gcs_bucket}/test/*: 1 file" in lines
    assert f"ok    output_dir    {gcs_bucket}/out is writable" in lines


def test_schedules_of_both_pipelines_have_different_names():
    assert ScheduleConfig().name == "yt8m-nightly"
    assert ScheduleConfig(pipeline="predict").name == "yt8m-predict-nightly"
    assert ScheduleConfig(pipeline="predict", name="mine").name == "mine"


def test_a_model_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="No model is published in"):
        resolve_model("", str(tmp_path))
    assert resolve_model("given", str(tmp_path)) == "given"
    with pytest.raises(UserError, match=r"expected manifest\.json"):
        read_record_format(str(tmp_path))


@pytest.fixture
def train_dir(tmp_path) -> str:
    """A LogisticModel with random weights."""
    from trainer.config import TrainConfig
    from trainer.data.input_pipeline import Position
    from trainer.models import registry
    from trainer.run_dir import checkpoints

    folder = str(tmp_path / "model")
    config = TrainConfig(train_dir=folder, feature_names="rgb", feature_sizes="3", num_classes=4)
    variables = registry.variables(registry.create(config.model_flags))
    checkpoints.keep_model_flags(folder, config.model_flags)
    checkpoints.save(folder, variables, checkpoints.State(7, Position(), "", {}), 1)
    return folder


@pytest.mark.slow
def test_a_run_on_this_machine(train_dir, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        records = [
            encode_example({"id": f"{number},{i}", "rgb": rng.normal(size=3).astype(np.float32)})
            for i in range(3)
        ]
        write_records(f"{tmp_path}/data/{number}.tfrecord", records)
    command = [sys.executable, "-m", "pipeline", "run", "--pipeline=predict"]
    command += [f"data={tmp_path}/data/*.tfrecord", f"model_dir={train_dir}", "run_name=test"]
    command += [f"output_dir={tmp_path}/output", "output_format=jsonl", "top_k=2"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 videos in 2 files" in ran.stdout
    (folder,) = (tmp_path / "output" / "runs").glob("test-*")
    lines = (folder / "predictions/predictions/1.tfrecord.jsonl").read_text().splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["1,0", "1,1", "1,2"]
    assert [len(json.loads(line)["predictions"]) for line in lines] == [2, 2, 2]
    assert (folder / "predictions" / "report.html").exists()
    found = json.loads((folder / "validation" / "anomalies.json").read_text())["anomalies"]
    assert "unusual_id" in [row["kind"] for row in found]
