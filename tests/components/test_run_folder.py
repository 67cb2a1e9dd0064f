import pytest

from components.run_folder import run_folder


@pytest.mark.parametrize(
    "run_name, job_name, job_id, expected",
    [
        ("nightly", "ignored", "ignored", "nightly"),
        ("", "Run of yt8m (a1b2c)", "6f1c-42", "Run-of-yt8m-a1b2c-6f1c-42"),  # Kubeflow
        ("", "projects/1/locations/x/pipelineJobs/yt8m-2025", "77", "yt8m-2025-77"),  # Vertex
        ("", "Übung №1", "42", "bung-1-42"),
        ("", "夜間", "42", "42"),
        ("../../etc", "", "1", "etc"),
        ("..", "name", "1", "name-1"),
        ("", "x" * 300, "42", "x" * 80 + "-42"),
    ],
)
def test_a_single_safe_path_segment(run_name, job_name, job_id, expected):
    folder = run_folder("gs://bucket/models", run_name, job_name, job_id)
    assert folder == f"gs://bucket/models/runs/{expected}"
