"""The folder of a pipeline run, with its reports."""

import re

from trainer.common import storage


def run_folder(output_dir: str, run_name: str, job_name: str, job_id: str) -> str:
    """Return the folder of a run: output_dir/runs/NAME, where NAME is a safe path segment.

    Args:
        output_dir: Local directory or gs:// URI.
        run_name: The name given by the user. Empty: NAME consists of `job_name` and `job_id`.
        job_name: The backend's name of the run, not unique. Kubeflow: the display name, with any
            characters. Vertex AI: the job's name, which may be a resource path.
        job_id: The backend's unique id of the run. Kubeflow: a UUID. Vertex AI: a number.
    """
    name = _segment(run_name) or "-".join(filter(None, map(_segment, (job_name, job_id))))
    return storage.join(output_dir, "runs", name)


def _segment(text: str) -> str:
    """The last part of a path, with characters that are safe in every file system and URL."""
    last = text.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:80].strip("-.")
