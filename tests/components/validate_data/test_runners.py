"""The same data gives the same results on every one of Beam's runners, to the last count."""

import json
import os
import shutil
from pathlib import Path

import apache_beam
import numpy as np
import pytest

from components.validate_data.validation import validate
from trainer.examples import encode_example
from trainer.records import Feature, RecordFormat
from trainer.tfrecord import write_records

FORMAT = RecordFormat((Feature("rgb", 8),), num_classes=10)
PRISM = f"go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{apache_beam.__version__}"


@pytest.fixture
def data(tmp_path):
    """Six files of train, two of eval; a video in both, one twice, one broken."""
    rng = np.random.default_rng(0)

    def video(video_id: str, **changes) -> bytes:
        features = {"id": video_id, "labels": rng.integers(0, 10, 3), "rgb": rng.uniform(-1, 1, 8)}
        return encode_example(features | changes)

    for split, num_files in (("train", 6), ("eval", 2)):
        for i in range(num_files):
            videos = [video(f"{split}{i}-{j}") for j in range(20)]
            write_records(str(tmp_path / f"{split}{i}"), videos)
    more = [video("train0-1"), video("train3-1"), video("x", labels=[10])]
    write_records(str(tmp_path / "eval2"), [*more, video("y"), video("y")])
    return tmp_path


def run(data, name: str, *beam_args: str) -> tuple[dict, list]:
    """statistics.json and the findings of a run on the runner that `beam_args` name."""
    inputs = {split: f"{data}/{split}?" for split in ("train", "eval")}
    out = data / name
    with pytest.raises(ValueError, match="must not be trained on"):
        validate(inputs, str(out), FORMAT, beam_args)
    anomalies = json.loads((out / "anomalies.json").read_text())["anomalies"]
    return json.loads((out / "statistics.json").read_text()), anomalies


def assert_same(data, *beam_args: str) -> None:
    statistics, anomalies = run(data, "here", "--runner=FnApiRunner")
    other_statistics, other_anomalies = run(data, "there", *beam_args)
    assert other_anomalies == anomalies
    assert {row["kind"] for row in anomalies} >= {"leak", "duplicate", "label_out_of_range"}
    assert other_statistics == close_to(statistics)


def close_to(value):
    """The same counts and texts, and numbers that may differ in their last digits."""
    if isinstance(value, dict):
        return {key: close_to(one) for key, one in value.items()}
    if isinstance(value, list):
        return [close_to(one) for one in value]
    return pytest.approx(value, rel=1e-7, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.slow
def test_several_processes(data):
    assert_same(data, "--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.mark.slow
def test_prism(data):
    """Beam's portable runner in Go: another engine, in a process of its own."""
    home = Path.home() / "go" / "bin" / "prism"
    prism = os.environ.get("PRISM") or shutil.which("prism") or (home.is_file() and str(home))
    if not prism:
        pytest.skip(f"no prism on the path, nor named by PRISM; to have one: {PRISM}")
    options = (f"--prism_location={prism}", "--environment_type=LOOPBACK")
    assert_same(data, "--runner=PrismRunner", *options)


@pytest.mark.slow
def test_flink(data):
    """An embedded Flink, started by Beam's job server."""
    assert_same(
        data,
        "--runner=FlinkRunner",
        "--flink_master=[local]",
        f"--flink_job_server_jar={flink_job_server()}",
        "--environment_type=LOOPBACK",
        "--parallelism=2",
    )


def flink_job_server() -> str:
    """The jar named by FLINK_JOB_SERVER_JAR, or the one that Beam downloads; skips without."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions
    from apache_beam.utils.subprocess_server import JavaJarServer

    if not shutil.which("java"):
        pytest.skip("no java, which Flink needs")
    if jar := os.environ.get("FLINK_JOB_SERVER_JAR"):
        return jar
    version = PipelineOptions([]).view_as(FlinkRunnerOptions).flink_version
    target = f":runners:flink:{version}:job-server:shadowJar"
    try:
        return JavaJarServer.local_jar(JavaJarServer.path_to_beam_jar(target))
    except Exception as error:  # whatever keeps it from being downloaded
        pytest.skip(f"Beam's job server for Flink cannot be downloaded: {error!r:.200}")
