import os

import pytest

from components.validate_data.beam_options import (
    ALL_CORES,
    MIN_BYTES_FOR_ALL_CORES,
    complete,
    python_path_for_workers,
)
from components.validate_data.pipeline import Validate
from components.validate_data.shard import Shard
from trainer.common.errors import UserError
from trainer.data.records import RecordFormat, parse_features

DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=my-project",
    "--region=us-central1",
    "--temp_location=gs://bucket/tmp",
    "--sdk_container_image=registry/yt8m-dataflow:1",
]


def test_without_options_this_process_does_the_work():
    assert complete([], 1000) == ["--runner=FnApiRunner"]


def test_much_data_is_read_on_all_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert complete([], MIN_BYTES_FOR_ALL_CORES) == ["--runner=FnApiRunner", *ALL_CORES]
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert complete([], MIN_BYTES_FOR_ALL_CORES) == ["--runner=FnApiRunner"]


def test_the_users_options_count():
    options = ["--runner=FlinkRunner", "--parallelism=8", "--save_main_session"]
    assert complete(options, 0) == ["--runner=FnApiRunner", *options]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--runer=FlinkRunner"], "known neither to validate_data nor to Beam: --runer"),
        (["--runner", "FlinkRunner"], "--name or --name=value; got 'FlinkRunner'"),
    ],
)
def test_a_mistyped_option_is_an_error(options, words):
    with pytest.raises(UserError, match=words):
        complete(options, 0)


# Dataflow


def test_the_dataflow_runner_is_installed():
    """Beam imports the client of Dataflow only when a job is submitted."""
    from apache_beam.internal.gcp import auth
    from apache_beam.runners.dataflow.internal import apiclient
    from apache_beam.runners.runner import create_runner

    assert type(create_runner("DataflowRunner")).__name__ == "DataflowRunner"
    assert apiclient.DataflowApplicationClient
    # Without this package Beam sends requests without credentials, and does not say why.
    assert auth._GOOGLE_AUTH_AVAILABLE


def test_complete_dataflow_options_are_valid():
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    # A dry run is not checked against the bucket.
    options = PipelineOptions(complete([*DATAFLOW, "--dry_run=True"], 0))
    assert PipelineOptionsValidator(options, DataflowRunner()).validate() == []
    assert options.view_as(GoogleCloudOptions).staging_location == "gs://bucket/tmp"


@pytest.mark.parametrize("name", ["project", "region", "temp_location", "sdk_container_image"])
@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow"])
def test_a_missing_dataflow_option_is_named(runner, name):
    options = [option for option in DATAFLOW[1:] if not option.startswith(f"--{name}")]
    with pytest.raises(UserError, match=rf"^DataflowRunner also needs, for example: --{name}=\S+$"):
        complete([f"--runner={runner}", *options], 0)


@pytest.mark.parametrize("folder", ["/tmp", "gs://bucket", "gs://Bucket/tmp"])
@pytest.mark.parametrize("name", ["temp_location", "staging_location"])
def test_dataflow_keeps_its_files_in_cloud_storage(name, folder):
    with pytest.raises(UserError, match=f"needs --{name}=gs://BUCKET/FOLDER; got '{folder}'"):
        complete([*DATAFLOW, f"--{name}={folder}"], 0)


def test_the_job_that_dataflow_would_get_runs_in_our_image():
    """A dry run stops before the job is sent."""
    import apache_beam as beam
    from apache_beam.portability.api import beam_runner_api_pb2

    record_format = RecordFormat(parse_features("mean_rgb", "1024"), False, 3)
    pipeline = beam.Pipeline(argv=complete([*DATAFLOW, "--dry_run=True", "--no_auth"], 0))
    _ = (
        pipeline
        | beam.Create([Shard("train", "gs://bucket/train.tfrecord")])
        | Validate(record_format, num_buckets=1)
    )
    environments = pipeline.run().job.proto_pipeline.components.environments.values()
    images = {
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
        for environment in environments
    }
    assert images == {"registry/yt8m-dataflow:1"}


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_the_path_is_as_it_was_afterwards(monkeypatch, before):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before:
        monkeypatch.setenv("PYTHONPATH", before)
    with python_path_for_workers():
        assert os.getcwd() in os.environ["PYTHONPATH"].split(os.pathsep)
    assert os.environ.get("PYTHONPATH") == before
