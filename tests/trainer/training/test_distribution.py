"""Several devices and several machines: the same run as on one, with larger batches."""

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.paths import ROOT
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.run_dir import mirror
from trainer.training import distribution

# Trains as sys.argv says on as many devices as its first argument says.
TRAIN_ON_DEVICES = """
import sys
import tensorflow as tf
from trainer.common.command_line import parse
from trainer.config import TrainConfig
from trainer.training.loop import train

devices = int(sys.argv[1])
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(devices)])
train(parse(TrainConfig, ["train.py", *sys.argv[2:]]), strategy)
"""


def arguments(config) -> list[str]:
    """The command line of a config."""
    default = TrainConfig()
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return [f"--{n}={value}" for n, value in values.items() if value != getattr(default, n)]


def assert_close(weights, expected):
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


# The bit-for-bit reproducible number of steps is small: rounding differs, and Adam spreads it.
FLAGS = {"model": "MoeModel", "optimizer": "MomentumOptimizer", "num_epochs": 2}


@pytest.fixture
def on_one_device(make_config, weights, tmp_path):
    """The weights that a run on one device leaves, with batches of 8."""
    from trainer.training.loop import train

    config = make_config(train_dir=str(tmp_path / "one"), batch_size=8, **FLAGS)
    train(config)
    return weights(config.train_dir)


@pytest.mark.slow
def test_2_devices_with_batches_of_4_train_as_1_with_batches_of_8(
    make_config, weights, on_one_device
):
    # The last batch of an epoch has 5 videos: 4 for the one, 1 for the other.
    config = make_config(batch_size=4, **FLAGS)
    command = [sys.executable, "-c", TRAIN_ON_DEVICES, "2", *arguments(config)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert_close(weights(config.train_dir), on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["LstmModel", "GruModel"])
def test_recurrent_models_train_on_2_devices_as_on_1(
    make_config, weights, frame_shards, tmp_path, model
):
    # The last batch of an epoch has 2 videos: both for the one, none for the other.
    flags = FLAGS | {"model": model, "frame_features": True, "train_data_pattern": frame_shards}
    flags |= {"lstm_cells": 3, "gru_cells": 3}
    config = make_config(batch_size=2, **flags)
    command = [sys.executable, "-c", TRAIN_ON_DEVICES, "2", *arguments(config)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    one = make_config(batch_size=4, train_dir=str(tmp_path / "one"), **flags)
    from trainer.training.loop import train

    assert train(one) == 8
    assert_close(weights(config.train_dir), weights(one.train_dir))


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(config, tmp_path) -> list[subprocess.Popen]:
    """Two workers of one run, each with a log file and an empty temporary folder of its own."""
    workers = [f"localhost:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {
            "TF_CONFIG": json.dumps(task),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TMPDIR": tempfile.mkdtemp(dir=tmp_path),
        }
        with open(tmp_path / f"worker{index}.log", "w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "trainer.train", *arguments(config)],
                    env=environment,
                    stderr=log,
                    cwd=ROOT,
                )
            )
    return processes


@pytest.fixture
def two_shards(write_videos, tmp_path) -> str:
    """Glob of 2 shards with 8 videos each."""
    rng = np.random.default_rng(3)
    for shard in range(2):
        videos = [
            (f"v{i}", [i % 5], {"rgb": rng.normal(size=3), "audio": rng.normal(size=2)})
            for i in range(8)
        ]
        write_videos(tmp_path / f"shard{shard}.tfrecord", videos)
    return f"{tmp_path}/shard*.tfrecord"


@pytest.mark.slow
def test_2_machines_with_a_shard_each_train_as_1_with_both(
    make_config, weights, tmp_path, two_shards
):
    # An epoch is a step on all 16 videos.
    flags = FLAGS | {"train_data_pattern": two_shards, "num_epochs": 10}
    config = make_config(batch_size=8, **flags)
    processes = start_workers(config, tmp_path)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    one = make_config(batch_size=16, train_dir=str(tmp_path / "one"), **flags)
    from trainer.training.loop import train

    assert train(one) == 10
    assert_close(weights(config.train_dir), weights(one.train_dir))


def wait_for(text: str, process: subprocess.Popen, log: Path):
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)


@pytest.fixture(params=["local", "gs"])
def train_dir(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "model")
    return f"{request.getfixturevalue('gcs_bucket')}/model"


@pytest.mark.slow
def test_a_lost_machine_ends_the_others_with_a_checkpoint_to_resume_from(
    make_config, weights, tmp_path, two_shards, train_dir
):
    flags = FLAGS | {"train_data_pattern": two_shards, "batch_size": 2, "train_dir": train_dir}
    config = make_config(**flags | {"num_epochs": 100_000})
    processes = start_workers(config, tmp_path)
    wait_for("training step", processes[0], tmp_path / "worker0.log")
    processes[1].kill()
    assert processes[0].wait(timeout=120) == 1
    log = (tmp_path / "worker0.log").read_text()
    assert "error: " in log.splitlines()[-1]
    assert "Traceback" not in log
    with mirror.local_copy(train_dir) as folder:
        (checkpoint,) = Path(folder, "checkpoints").glob("step-*")
    step = int(checkpoint.name.removeprefix("step-"))

    config = make_config(**flags | {"num_epochs": 100_000, "max_steps": step + 2})
    processes = start_workers(config, tmp_path)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert f"Resuming at step {step}" in (tmp_path / "worker0.log").read_text()
    with mirror.local_copy(train_dir) as folder:
        assert all(np.isfinite(value).all() for value in weights(folder).values())


@pytest.mark.slow
def test_machines_that_go_on_from_a_bucket_end_as_if_never_stopped(
    make_config, weights, tmp_path, two_shards, gcs_bucket
):
    def run(**flags):
        flags = FLAGS | {"train_data_pattern": two_shards, "num_epochs": 4, "batch_size": 2} | flags
        processes = start_workers(make_config(**flags), tmp_path)
        assert [process.wait(timeout=120) for process in processes] == [0, 0]

    run(train_dir=str(tmp_path / "never_stopped"))  # 4 steps an epoch
    run(train_dir=f"{gcs_bucket}/model", max_steps=7)
    run(train_dir=f"{gcs_bucket}/model")
    assert "Resuming at step 7, epoch 2" in (tmp_path / "worker1.log").read_text()
    with mirror.local_copy(f"{gcs_bucket}/model") as folder:
        found = weights(folder)
    for name, value in weights(str(tmp_path / "never_stopped")).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_sigterm_to_one_machine_ends_both_after_the_same_step(make_config, tmp_path, two_shards):
    config = make_config(**FLAGS | {"train_data_pattern": two_shards, "num_epochs": 100_000})
    processes = start_workers(config, tmp_path)
    wait_for("training step", processes[0], tmp_path / "worker0.log")
    processes[1].terminate()
    assert [process.wait(timeout=120) for process in processes] == [143, 143]
    assert len(list(Path(config.train_dir, "checkpoints").glob("step-*"))) == 1


# TF_CONFIG.


@pytest.mark.parametrize(
    "given",
    [
        "cluster",
        '{"cluster": {}}',
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '["cluster"]',
    ],
)
def test_a_bad_tf_config_is_named(monkeypatch, given):
    monkeypatch.setenv("TF_CONFIG", given)
    with pytest.raises(UserError, match=r"TF_CONFIG must be a JSON object with cluster\.worker"):
        distribution.strategy_for(TrainConfig())


def test_tf_config_without_a_cluster_is_one_machine(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    strategy = distribution.strategy_for(TrainConfig())
    assert distribution.worker(strategy) == (0, 1)
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize("num_gpu, used", [(0, ""), (1, "a"), (2, "ab"), (3, "abc"), (4, "abc")])
def test_the_first_num_gpu_gpus_are_used(monkeypatch, num_gpu, used):
    made_visible = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: list("abc"))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, _: made_visible.extend(gpus))
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: "mirrored")
    strategy = distribution.strategy_for(TrainConfig(num_gpu=num_gpu))
    assert "".join(made_visible) == used
    assert (strategy == "mirrored") == (num_gpu > 1)


@pytest.mark.parametrize("num_gpu, found", [(1, 0), (4, 3)])
def test_require_gpu_fails_if_fewer_gpus_are_found(monkeypatch, num_gpu, found):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: list("abc")[:found])
    with pytest.raises(UserError, match=f"found {found} GPUs, expected {num_gpu} "):
        distribution.strategy_for(TrainConfig(num_gpu=num_gpu, require_gpu=True))


def test_require_gpu_is_met_by_no_gpu_where_none_is_wanted():
    distribution.strategy_for(TrainConfig(num_gpu=0, require_gpu=True))


@pytest.mark.parametrize("num_gpu", [0, 1, 99])
def test_any_num_gpu_will_do_without_a_gpu(make_config, num_gpu, caplog):
    from trainer.training.loop import train

    with caplog.at_level(logging.INFO):
        assert train(make_config(num_gpu=num_gpu, max_steps=1)) == 1
    assert ("Training on the CPU: no GPU was found." in caplog.text) == (num_gpu > 0)
