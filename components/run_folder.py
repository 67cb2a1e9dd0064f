"""The folder of a pipeline run, with its reports."""

import json
import re

from trainer.common import storage


def run_folder(output_dir: str, run_name: str, job_name: str, job_id: str) -> str:
    """Return the folder of a run: output_dir/runs/NAME-ID.

    NAME and ID are safe path segments. The id makes it a folder of this run alone, also if a name
    is used again.

    Args:
        output_dir: Local directory or gs:// URI.
        run_name: The name given by the user. Empty: NAME is `job_name`.
        job_name: The backend's name of the run, not unique. Kubeflow: the display name, with any
            characters. Vertex AI: the job's name, which may be a resource path.
        job_id: The backend's unique id of the run. Kubeflow: a UUID. Vertex AI: a number.
    """
    parts = (_segment(run_name) or _segment(job_name), _segment(job_id))
    return storage.join(output_dir, "runs", "-".join(filter(None, parts)))


def describe(run_dir: str, parameters: dict) -> None:
    """Write run.json: "run_id", "commit", "images", "libraries" and "parameters".

    Args:
        run_dir: The run's folder.
        parameters: Name -> value of what the first step takes; artifacts are left out.
    """
    values = {n: v for n, v in parameters.items() if isinstance(v, str | int | float | list | dict)}
    run = {
        "run_id": values.pop("job_id"),
        "commit": values.pop("commit"),
        "images": {n: image for n, image in values.pop("images").items() if image},
        "libraries": values.pop("libraries"),
        "parameters": values,
    }
    storage.write_text(storage.join(run_dir, "run.json"), json.dumps(run, indent=1) + "\n")


def _segment(text: str) -> str:
    """The last part of a path, with characters that are safe in every file system and URL."""
    last = text.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last)[:80].strip("-.")
