"""Runs and schedules the compiled pipeline on Vertex AI."""

import contextlib
import hashlib
import json
import logging
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline import schedule as schedules
from pipeline import submit as submission
from trainer.common.errors import UserError

POLL_SECONDS = 10
TRIES = 4
BACKOFF_SECONDS = 1.0
ANSWER_SECONDS = 60.0

# State of a run that has ended -> exit code, as on Kubeflow.
EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "CANCELLED": 3}
STILL_RUNNING = 124
SETTINGS = "settings"  # the label that tells schedules that differ

INIT = {}  # further arguments of aiplatform.init


def submit(config, compiled, values: dict) -> int:
    """Runs the package; returns the exit code, that of the run's end if it was followed."""
    name = config.run_name or f"{compiled.version}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if config.dry_run:
        return _show(config, compiled, values, {"run": name})
    with _explained(), _client(config) as aiplatform:
        job = _job(aiplatform, config, compiled, values, name)
        _create_once(aiplatform, job, config)
        print(f"Run:      {name}\n          {job._dashboard_uri()}", flush=True)
        if not config.wait:
            return 0
        try:
            state = _follow(job, compiled.steps, config.timeout * 3600)
        except KeyboardInterrupt:
            print("\nNo longer followed; the run goes on.", file=sys.stderr)
            return 130
        return _tell(job, state, compiled.steps)


def access(config) -> str:
    """Says that Vertex AI lets us in, or raises UserError."""
    with _explained(), _client(config) as aiplatform:
        aiplatform.PipelineJob.list(filter='display_name="doctor"')  # an answer of one page
    return f"Vertex AI lets you in, in {config.region}"


@contextlib.contextmanager
def _client(config) -> Iterator:
    """google-cloud-aiplatform, set up for the project and region."""
    try:
        from google.cloud import aiplatform
    except ImportError:
        raise UserError(
            "Vertex AI needs google-cloud-aiplatform, which is not there: `make install-dev` "
            "installs it as locked."
        ) from None
    if not config.pipeline_root:
        raise UserError(
            "Vertex AI keeps artifacts in a bucket: --pipeline_root=gs://BUCKET/FOLDER."
        )
    logging.getLogger("google.cloud.aiplatform").setLevel(logging.WARNING)
    project = config.project or None
    aiplatform.init(**{"project": project, "location": config.region, **INIT})
    yield aiplatform


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns what may go wrong between us and Google Cloud into a UserError."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except GoogleAuthError as error:
        raise UserError(
            f"Google Cloud lets nobody in without signing in: {error}. For a person: gcloud auth "
            "application-default login, and --project."
        ) from None
    except GoogleAPIError as error:
        words = getattr(error, "message", "") or str(error)
        raise UserError(f"Vertex AI refused: {words[:500]}") from None


def _job(aiplatform, config, compiled, values: dict, name: str):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")
        file.write_text(compiled.text)
        return aiplatform.PipelineJob(
            display_name=name[:128],
            template_path=str(file),
            job_id=f"{_slug(name)}-{uuid.uuid4().hex[:8]}",
            pipeline_root=config.pipeline_root,
            parameter_values=values,
            labels=_labels(config.labels) | {"version": _slug(compiled.version)[:63]},
        )


def _slug(text: str) -> str:
    """The text as a part of a resource's name: lower-case letters, digits and dashes."""
    return "yt8m-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]


def _labels(text: str) -> dict[str, str]:
    labels = {}
    for word in filter(None, text.split(",")):
        name, equals, value = word.strip().partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
            raise UserError(f"--labels are like team=video,stage=test; got {word!r}.")
        if not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            raise UserError(f"--labels: a value has small letters, digits, _ and -; got {value!r}.")
        labels[name] = value
    return labels


def _create_once(aiplatform, job, config):
    """Creates the run; where an answer gets lost, a second try finds the run of that id there."""
    from google.api_core import exceptions

    lost = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.ServerError)
    for attempt in range(TRIES):
        try:
            return job.submit(
                service_account=config.service_account or None,
                network=config.network or None,
                create_request_timeout=ANSWER_SECONDS,
            )
        except exceptions.Conflict:  # the id is there already
            if not attempt:
                raise
            name = f"{job._parent}/pipelineJobs/{job.job_id}"
            job._gca_resource = aiplatform.PipelineJob.get(name)._gca_resource
            return None
        except lost:
            if attempt == TRIES - 1:
                raise
        time.sleep(BACKOFF_SECONDS * 2**attempt)


def _follow(job, steps: dict[str, str], seconds: float) -> str:
    """Shows each change of a step's state; returns the run's, when it has ended or time is up."""
    end = time.monotonic() + seconds
    shown = {}
    while True:
        state = job.state.name.removeprefix("PIPELINE_STATE_")
        for task in job._gca_resource.job_detail.task_details:
            if task.task_name in steps and shown.get(task.task_name) != task.state:
                shown[task.task_name] = task.state
                moment = task.end_time or task.start_time or task.create_time
                print(
                    f"{moment:%H:%M:%S}  {steps[task.task_name]:<14} {task.state.name.lower()}",
                    flush=True,
                )
        if state in EXIT_CODES or time.monotonic() >= end:
            return state
        time.sleep(POLL_SECONDS)


def _tell(job, state: str, steps: dict[str, str]) -> int:
    """Says how the run ended; returns the exit code."""
    link = job._dashboard_uri()
    if state not in EXIT_CODES:
        print(
            f"error: The run goes on, but is no longer followed (--timeout): {link}",
            file=sys.stderr,
        )
        return STILL_RUNNING
    print("The run was canceled." if state == "CANCELLED" else f"The run {state.lower()}.")
    if state == "FAILED":
        tasks = job._gca_resource.job_detail.task_details
        failed = [task for task in tasks if task.state.name == "FAILED" and task.task_name in steps]
        why = failed[0].error.message if failed else job._gca_resource.error.message
        step = steps[failed[0].task_name] if failed else "The run"
        print(f"error: {step} failed{': ' + why if why else '.'}\nLog: {link}", file=sys.stderr)
    return EXIT_CODES[state]


def _show(config, compiled, values: dict, more: dict) -> int:
    where = {
        "project": config.project or "(gcloud's)",
        "region": config.region,
        "pipeline_root": config.pipeline_root,
        "version": compiled.version,
    }
    submission.show(where | more, compiled, values)
    return 0


def schedule(config, action: str, words: list[str]):
    """Sets, lists, pauses, resumes or deletes a schedule."""
    if action == "set":
        return _set_schedule(config, words)
    with _explained(), _client(config) as aiplatform:
        if action == "list":
            return _list(aiplatform.PipelineJobSchedule.list())
        found = _of_name(aiplatform, config.name)
        if not found:
            raise UserError(f"There is no schedule of the name {config.name!r}; `list` lists them.")
        for one in found:
            if action == "resume":
                # Not by its own method, which drops catch_up.
                request = {"name": one.resource_name, "catch_up": config.catchup}
                one.api_client.resume_schedule(request=request)
            else:
                {"pause": one.pause, "delete": one.delete}[action]()
    print(f"Schedule: {config.name} ({action.removesuffix('e')}ed)")


def _set_schedule(config, words: list[str]):
    compiled, values = submission.prepare(config, words)
    schedules.check_values(values)
    if config.latest:
        raise UserError(
            "On Vertex AI a schedule has the version that it was set with, not --latest; set it "
            "again, e.g. from CI, when there is a new one."
        )
    if config.catchup:
        raise UserError(
            "On Vertex AI missed runs are made up for when a paused schedule is resumed: "
            "`resume --catchup`."
        )
    seconds, cron = schedules.announce(config).split(" ", 1)
    if seconds != "0":
        raise UserError(
            f"Vertex AI's schedules have 5 fields, without seconds; got {config.cron!r}."
        )
    if config.dry_run:
        return _show(config, compiled, values, {"schedule": config.name, "cron": cron})
    with _explained(), _client(config) as aiplatform:
        job = _job(aiplatform, config, compiled, values, config.name)
        digest = _digest(config, compiled, values, cron)
        job._gca_resource.labels[SETTINGS] = digest
        there = _of_name(aiplatform, config.name)
        keep = next((one for one in there if _settings(one) == digest), None)
        if keep is None:
            made = aiplatform.PipelineJobSchedule(job, display_name=config.name)
            made.create(
                cron=cron,
                max_concurrent_run_count=config.max_concurrency,
                service_account=config.service_account or None,
                network=config.network or None,
                create_request_timeout=ANSWER_SECONDS,
            )
            if there and all(one.state.name == "PAUSED" for one in there):
                made.pause()
        for one in there:
            if one is not keep:
                one.delete()
    done = "left as it is" if keep else "updated" if there else "created"
    print(f"Schedule: {config.name} ({done})\nVersion:  {compiled.version}")


def _digest(config, compiled, values: dict, cron: str) -> str:
    content = [
        compiled.version,
        values,
        cron,
        config.pipeline_root,
        config.service_account,
        config.network,
        config.labels,
        config.max_concurrency,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _settings(schedule) -> str:
    return schedule._gca_resource.create_pipeline_job_request.pipeline_job.labels.get(SETTINGS, "")


def _of_name(aiplatform, name: str) -> list:
    found = aiplatform.PipelineJobSchedule.list(filter=f'display_name="{name}"')
    return [one for one in found if one.display_name == name]


def _list(found: list):
    if not found:
        print("There are no schedules.")
    for one in sorted(found, key=lambda one: one.display_name):
        state = "paused" if one.state.name == "PAUSED" else "on"
        print(f"{one.display_name:<24} {state:<8} {one.cron}")
