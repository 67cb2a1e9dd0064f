"""The same data gives the same results on every one of Beam's runners, to the last count.

What runs elsewhere than in Python is built by `make engines`; without, its tests are skipped.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList

from components.validate_data.validation import validate
from pipeline.paths import ROOT
from tests.components.engines import engine, job_server
from tests.ports import free_port
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import frame, write_records

VIDEO = RecordFormat((Feature("mean_rgb", 1024), Feature("mean_audio", 128)), num_classes=3862)
FRAME = RecordFormat((Feature("rgb", 8), Feature("audio", 4)), frame_features=True, num_classes=10)
FLINK = """
jobmanager.rpc.address: localhost
jobmanager.rpc.port: {rpc_port}
rest.address: localhost
rest.port: {rest_port}
io.tmp.dirs: {folder}
taskmanager.host: localhost
taskmanager.numberOfTaskSlots: {slots}
taskmanager.cpu.cores: {slots}
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 64m
taskmanager.memory.network.min: 128m
taskmanager.memory.network.max: 128m
taskmanager.memory.managed.size: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 128m
taskmanager.memory.jvm-overhead.max: 128m
"""
# What a TaskManager starts to have Python work for it; it says itself where it hands out work.
WORKER = """#!{python}
import argparse

import grpc
from apache_beam.portability.api.org.apache.beam.model.fn_execution.v1 import (
    beam_provision_api_pb2 as messages,
    beam_provision_api_pb2_grpc as services,
)
from apache_beam.runners.worker.sdk_worker import SdkHarness

parser = argparse.ArgumentParser()
parser.add_argument("--id")
parser.add_argument("--provision_endpoint")
flags, _ = parser.parse_known_args()
task_manager = services.ProvisionServiceStub(grpc.insecure_channel(flags.provision_endpoint))
request, metadata = messages.GetProvisionInfoRequest(), [("worker_id", flags.id)]
info = task_manager.GetProvisionInfo(request, metadata=metadata).info
SdkHarness(info.control_endpoint.url, worker_id=flags.id).run()
"""


@pytest.fixture(scope="module", params=["video", "frame"])
def data(request, tmp_path_factory):
    """Files of both splits, good and broken, their format, and what is right of them."""
    folder = tmp_path_factory.mktemp(request.param)
    write = {"video": write_videos, "frame": write_frames}[request.param]
    record_format = {"video": VIDEO, "frame": FRAME}[request.param]
    write(folder)
    damage(folder)
    data = SimpleNamespace(folder=folder, record_format=record_format)
    data.expected = run(data, "here", "--runner=FnApiRunner")
    return data


def write_videos(folder: Path) -> None:
    """Real files, where there are any, and generated ones."""
    rng = np.random.default_rng(0)

    def video(video_id: str, **changes) -> bytes:
        features = {
            "id": video_id,
            "labels": rng.integers(0, 3862, 3),
            "mean_rgb": rng.uniform(-1, 1, 1024),
            "mean_audio": rng.uniform(-1, 1, 128),
        }
        return encode_example(features | changes)

    write_splits(folder, video, labels=[3862])
    real = ROOT.parent / "shared" / "data" / "yt8m2018" / "video"
    for number, split in enumerate(("train", "train", "eval")):
        path = real / f"validate000{number}.tfrecord"
        if path.is_file():
            shutil.copyfile(path, folder / f"{split}-real{number}")


def write_frames(folder: Path) -> None:
    rng = np.random.default_rng(0)

    def video(video_id: str, **changes) -> bytes:
        context = {"id": video_id, "labels": rng.integers(0, 10, 3)}
        frames = {
            "rgb": rng.integers(0, 256, (30, 8), np.uint8),
            "audio": rng.integers(0, 256, (30, 4), np.uint8),
        }
        return encode_sequence_example(context | changes, frames)

    write_splits(folder, video, labels=[10])


def write_splits(folder: Path, video, **broken) -> None:
    """Six files of train, three of eval; a video in both, one twice, one broken."""
    for split, num_files in (("train", 6), ("eval", 2)):
        for i in range(num_files):
            videos = [video(f"{split}{i}-{j}") for j in range(20)]
            write_records(str(folder / f"{split}-{i}"), videos)
    more = [video("train0-1"), video("train3-1"), video("x", **broken), video("y"), video("y")]
    write_records(str(folder / "eval-more"), more)


def damage(folder: Path) -> None:
    """Copies of a good file, each damaged in its own way."""
    good = max(folder.glob("train-*"), key=lambda path: path.stat().st_size).read_bytes()
    (folder / "train-cut").write_bytes(good[: len(good) // 2])
    (folder / "train-flipped").write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    (folder / "train-empty").write_bytes(b"")
    (folder / "train-text").write_bytes(b"id,labels\n")
    (folder / "train-junk").write_bytes(frame(b"junk") * 3)


def run(data, name: str, *beam_args: str) -> tuple:
    """What a run wrote, read back: findings, schema, fingerprint, statistics in both formats."""
    # No split is called train: the first one is what the model is trained on.
    inputs = {"new": f"{data.folder}/train-*", "eval": f"{data.folder}/eval-*"}
    out = data.folder / name
    with pytest.raises(ValueError, match="Validation failed"):
        validate(inputs, str(out), data.record_format, beam_args)
    anomalies = json.loads((out / "anomalies.json").read_text())["anomalies"]
    statistics = json.loads((out / "statistics.json").read_text())
    of_tfx = DatasetFeatureStatisticsList.FromString((out / "statistics.pb").read_bytes())
    schema = (out / "schema.pbtxt").read_text()
    return anomalies, schema, statistics["fingerprint"], statistics, MessageToDict(of_tfx)


def assert_same(data, name: str, *beam_args: str) -> None:
    anomalies, schema, fingerprint, *statistics = run(data, name, *beam_args)
    assert {row["kind"] for row in anomalies} >= {
        "leak",
        "duplicate",
        "label_out_of_range",
        "truncated",
        "crc",
        "empty_file",
        "not_tfrecord",
        "not_an_example",
    }
    assert [anomalies, schema, fingerprint] == list(data.expected[:3])
    assert statistics == close_to(list(data.expected[3:]))


def close_to(value):
    """The same counts and texts, and numbers that may differ in their last digits."""
    if isinstance(value, dict):
        return {key: close_to(one) for key, one in value.items()}
    if isinstance(value, list):
        return [close_to(one) for one in value]
    return pytest.approx(value, rel=1e-7, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.slow
def test_several_processes(data):
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert_same(data, "processes", *options)


@pytest.mark.slow
def test_prism(data):
    """Beam's portable runner in Go: another engine, in a process of its own."""
    options = (f"--prism_location={engine('PRISM', 'prism')}", "--environment_type=LOOPBACK")
    assert_same(data, "prism", "--runner=PrismRunner", *options)


@pytest.mark.slow
def test_flink_embedded(data):
    """A Flink inside Beam's job server."""
    assert_same(
        data,
        "embedded",
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        f"--flink_job_server_jar={job_server()}",
        "--environment_type=LOOPBACK",
        "--parallelism=2",
    )


@pytest.mark.slow
@pytest.mark.parametrize("data", ["video"], indirect=True)
def test_flink_of_two_machines(data, tmp_path):
    """A Flink of processes, where what one TaskManager read goes to the other."""
    worker = tmp_path / "worker"
    worker.write_text(WORKER.format(python=sys.executable))
    worker.chmod(0o755)
    environment = json.dumps({"command": str(worker), "env": {"PYTHONPATH": str(ROOT)}})
    with started_flink(tmp_path, task_managers=2, slots=1) as address:
        workers = ("--environment_type=PROCESS", f"--environment_config={environment}")
        assert_same(data, "two", *submit_to(address), *workers)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["frame"], indirect=True)
def test_flink_with_workers_beside_it(data, tmp_path):
    """As in Kubernetes: Python has a process, or container, of its own beside the TaskManager."""
    port = free_port()
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = tmp_path / "pool.log"
    pool = process([*command, f"--service_port={port}"], log, PATH=path, PYTHONPATH=str(ROOT))
    with pool, started_flink(tmp_path, task_managers=1, slots=2) as address:
        workers = ("--environment_type=EXTERNAL", f"--environment_config=localhost:{port}")
        assert_same(data, "pool", *submit_to(address), *workers, "--sdk_worker_parallelism=2")
    assert "Starting worker" in log.read_text()


def submit_to(address: str) -> list[str]:
    return [
        "--runner=FlinkRunner",
        f"--flink_master={address}",
        "--flink_submit_uber_jar",
        f"--flink_job_server_jar={job_server()}",
        "--parallelism=2",
    ]


@contextlib.contextmanager
def started_flink(folder: Path, task_managers: int, slots: int) -> Iterator[str]:
    """Address of a Flink: a JobManager and TaskManagers, a process each."""
    rest_port = free_port()
    settings = {"rpc_port": free_port(), "rest_port": rest_port, "folder": folder, "slots": slots}
    (folder / "config.yaml").write_text(FLINK.format(**settings))
    names = ["entrypoint.StandaloneSessionClusterEntrypoint"]
    names += ["taskexecutor.TaskManagerRunner"] * task_managers
    with contextlib.ExitStack() as processes:
        for i, name in enumerate(names):
            command = ["java", "-cp", job_server(), f"org.apache.flink.runtime.{name}"]
            log = folder / f"flink{i}.log"
            processes.enter_context(process([*command, "--configDir", str(folder)], log))
        wait_for_slots(f"http://localhost:{rest_port}/v1/overview", task_managers * slots, folder)
        yield f"localhost:{rest_port}"


@contextlib.contextmanager
def process(command: list[str], log: Path, **environment) -> Iterator[None]:
    """Runs a command for as long as the context lasts."""
    with (
        open(log, "w") as file,
        subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment
        ) as running,
    ):
        try:
            yield
        finally:
            running.terminate()


def wait_for_slots(address: str, wanted: int, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10) as response:
            if json.load(response)["slots-total"] == wanted:
                return
        time.sleep(0.5)
    raise TimeoutError(
        f"Flink at {address} has no {wanted} slots after two minutes; see {folder}/*.log"
    )
