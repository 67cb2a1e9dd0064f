"""Every runner of Beam writes the same predictions, byte by byte.

`make engines` builds Flink's job server; without it, Flink's test is skipped.
"""

from pathlib import Path

import numpy as np
import pytest

from components.predict.prediction import predict
from tests.components.engines import job_server
from trainer.data.examples import encode_example
from trainer.data.input_pipeline import Position
from trainer.data.tfrecord import write_records
from trainer.serving.options import PredictionOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Folder with a model and six shards, and the predictions of one process."""
    from trainer.config import TrainConfig
    from trainer.models import registry
    from trainer.run_dir import checkpoints

    folder = tmp_path_factory.mktemp("runners")
    train_dir = str(folder / "model")
    config = TrainConfig(
        train_dir=train_dir, feature_names="rgb", feature_sizes="3", num_classes=100
    )
    variables = registry.variables(registry.create(config.model_flags))
    checkpoints.keep_model_flags(train_dir, config.model_flags)
    checkpoints.save(train_dir, variables, checkpoints.State(1, Position(), "", {}), 1)
    rng = np.random.default_rng(0)
    for number in range(6):
        vectors = rng.normal(size=[50 * number, 3]).astype(np.float32)
        records = [encode_example({"id": f"v{i}", "rgb": v}) for i, v in enumerate(vectors)]
        write_records(f"{folder}/data/{number}.tfrecord", records)
    run(folder, "one process")
    return folder


def run(data: Path, name: str, *beam_args: str) -> dict:
    arguments = (str(data / "model"), f"{data}/data/*.tfrecord", str(data / name))
    return predict(*arguments, PredictionOptions(), beam_args)


def assert_same(data: Path, name: str, *beam_args: str) -> None:
    summary = run(data, name, *beam_args)
    assert summary["statistics"]["videos"] == 750
    for part in ("predictions", "shards"):
        files = {file.name: file.read_bytes() for file in (data / name / part).iterdir()}
        expected = {f.name: f.read_bytes() for f in (data / "one process" / part).iterdir()}
        assert files == expected


@pytest.mark.slow
def test_several_processes(data):
    processes = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert_same(data, "processes", "--runner=FnApiRunner", *processes)


@pytest.mark.slow
def test_flink_embedded(data):
    options = ("--flink_master=[local]", "--parallelism=2", "--environment_type=LOOPBACK")
    assert_same(
        data, "flink", "--runner=FlinkRunner", f"--flink_job_server_jar={job_server()}", *options
    )
