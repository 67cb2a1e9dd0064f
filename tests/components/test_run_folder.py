import json

import pytest

from components.run_folder import describe, run_folder


@pytest.mark.parametrize(
    "run_name, job_name, job_id, expected",
    [
        ("nightly", "ignored", "6f1c-42", "nightly-6f1c-42"),
        ("", "Run of yt8m (a1b2c)", "6f1c-42", "Run-of-yt8m-a1b2c-6f1c-42"),  # Kubeflow
        ("", "projects/1/locations/x/pipelineJobs/yt8m-2025", "77", "yt8m-2025-77"),  # Vertex
        ("", "Übung №1", "42", "bung-1-42"),
        ("", "夜間", "42", "42"),
        ("../../etc", "", "1", "etc-1"),
        ("..", "name", "1", "name-1"),
        ("", "x" * 300, "42", "x" * 80 + "-42"),
    ],
)
def test_a_single_safe_path_segment(run_name, job_name, job_id, expected):
    folder = run_folder("gs://bucket/models", run_name, job_name, job_id)
    assert folder == f"gs://bucket/models/runs/{expected}"


def test_a_run_is_described_by_its_parameters_commit_and_images(tmp_path):
    given = {"job_id": "42", "commit": "0123", "libraries": "4567"}
    given["images"] = {"data": "data@sha256:1"}
    parameters = {"train_data": "a*", "num_epochs": 5, "frame_features": False, "flags": ["--x"]}
    describe(str(tmp_path), given | parameters | {"report": object()})
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "run_id": "42",
        "commit": "0123",
        "images": {"data": "data@sha256:1"},
        "libraries": "4567",
        "parameters": parameters,
    }
