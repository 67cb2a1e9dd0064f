"""Where a run of the pipeline leaves its reports."""

import re

from trainer.common import storage


def run_folder(output_dir: str, run_name: str, job_name: str, job_id: str) -> str:
    """The folder of one run: output_dir/runs/NAME, where NAME is a single, safe path segment.

    Args:
        output_dir: Local directory or gs:// URI.
        run_name: The name that the user gave. Empty: made of the next two.
        job_name: What the backend calls the run; not unique. Kubeflow: its display name, which
            may hold any character. Vertex: the job's name, which may be a path of resources.
        job_id: What tells the run from all others. Kubeflow: a UUID. Vertex: a number.
    """
    name = _segment(run_name) or "-".join(filter(None, map(_segment, (job_name, job_id))))
    return storage.join(output_dir, "runs", name)


def _segment(text: str) -> str:
    """The last part of a path, in characters that are safe in every file system and URL."""
    last = text.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:80].strip("-.")
