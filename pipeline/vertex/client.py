"""Client of Vertex AI: authentication, errors, and pipeline jobs."""

import contextlib
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline import prepare
from pipeline.redaction import shorten
from trainer.common.errors import UserError

ANSWER_SECONDS = 60.0

INIT = {}  # additional arguments of aiplatform.init, for tests


def access(config) -> str:
    """Check that Vertex AI accepts the credentials, or raise UserError."""
    with explained(), client(config) as aiplatform:
        aiplatform.PipelineJob.list(filter='display_name="doctor"')  # a single page
    return f"Vertex AI accepts the credentials in {config.region}"


@contextlib.contextmanager
def client(config) -> Iterator:
    """Yield the module google.cloud.aiplatform, initialized for a project and region."""
    try:
        from google.cloud import aiplatform
    except ImportError:
        raise UserError(
            "Vertex AI needs google-cloud-aiplatform, which is not installed. Run "
            "`make install-dev`."
        ) from None
    if not config.pipeline_root:
        raise UserError(
            "Vertex AI needs a folder for artifacts: --pipeline-root=gs://BUCKET/FOLDER."
        )
    logging.getLogger("google.cloud.aiplatform").setLevel(logging.WARNING)
    project = config.project or None
    aiplatform.init(**{"project": project, "location": config.region, **INIT})
    yield aiplatform


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise the errors of requests to Google Cloud as UserError."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAuthError as error:
        raise UserError(
            f"Google Cloud requires authentication: {error}. Run `gcloud auth application-default "
            "login`, and give --project."
        ) from None
    except GoogleAPIError as error:
        words = getattr(error, "message", "") or str(error)
        raise UserError(f"Vertex AI refused the request: {shorten(words, 500)}") from None


def job(aiplatform, config, compiled, values: dict, name: str):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")
        file.write_text(compiled.text)
        return aiplatform.PipelineJob(
            display_name=name[:128],
            template_path=str(file),
            job_id=f"{slug(name)}-{uuid.uuid4().hex[:8]}",
            pipeline_root=config.pipeline_root,
            parameter_values=values,
            labels=labels(config.labels) | {"version": slug(compiled.version)[:63]},
        )


def slug(text: str) -> str:
    """Return a text in a form for resource names: lower-case letters, digits and dashes."""
    return "yt8m-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


def labels(text: str) -> dict[str, str]:
    labels = {}
    for word in filter(None, text.split(",")):
        name, equals, value = word.strip().partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
            raise UserError(f"--labels must be like team=video,stage=test; got {word!r}.")
        if not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            raise UserError(
                f"--labels: a value consists of lower-case letters, digits, _ and -; got {value!r}."
            )
        labels[name] = value
    return labels


def show(config, compiled, values: dict, more: dict) -> int:
    where = {
        "project": config.project or "(from gcloud)",
        "region": config.region,
        "pipeline_root": config.pipeline_root,
        "version": compiled.version,
    }
    prepare.show(where | more, compiled, values)
    return 0
