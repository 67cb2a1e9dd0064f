"""Schedules of the compiled pipeline on Vertex AI."""

import hashlib
import json

from pipeline import cron
from pipeline.prepare import check_repeatable, prepare
from pipeline.vertex import client as vertex
from trainer.common.errors import UserError

SETTINGS = "settings"  # label with a digest of the schedule


def change(config, action: str):
    """List all schedules; or pause, resume or delete the schedule named config.name."""
    with vertex.explained(), vertex.client(config) as aiplatform:
        if action == "list":
            return _list(aiplatform.PipelineJobSchedule.list())
        found = _of_name(aiplatform, config.name)
        if not found:
            raise UserError(f"There is no schedule {config.name!r}. List schedules with `list`.")
        for one in found:
            if action == "resume":
                # Not with the SDK's method, which ignores catch_up.
                request = {"name": one.resource_name, "catch_up": config.catchup}
                one.api_client.resume_schedule(request=request)
            else:
                {"pause": one.pause, "delete": one.delete}[action]()
    print(f"Schedule: {config.name} ({action.removesuffix('e')}ed)")


def set_schedule(config, words: list[str]):
    """Create the schedule, or replace it if it differs."""
    compiled, values = prepare(config, words)
    check_repeatable(values)
    if config.catchup:
        raise UserError(
            "On Vertex AI, missed runs are made up for when a paused schedule is resumed: "
            "`resume --catchup`."
        )
    seconds, expression = cron.announce(config.cron).split(" ", 1)
    if seconds != "0":
        raise UserError(
            f"Vertex AI's cron expressions have 5 fields, without seconds; got {config.cron!r}."
        )
    if config.dry_run:
        return vertex.show(config, compiled, values, {"schedule": config.name, "cron": expression})
    with vertex.explained(), vertex.client(config) as aiplatform:
        job = vertex.job(aiplatform, config, compiled, values, config.name)
        digest = _digest(config, compiled, values, expression)
        job._gca_resource.labels[SETTINGS] = digest
        existing = _of_name(aiplatform, config.name)
        keep = next((one for one in existing if _settings(one) == digest), None)
        if keep is None:
            made = aiplatform.PipelineJobSchedule(job, display_name=config.name)
            made.create(
                cron=expression,
                max_concurrent_run_count=config.max_concurrency,
                service_account=config.service_account or None,
                network=config.network or None,
                create_request_timeout=vertex.ANSWER_SECONDS,
            )
            if existing and all(one.state.name == "PAUSED" for one in existing):
                made.pause()
        for one in existing:
            if one is not keep:
                one.delete()
    done = "unchanged" if keep else "updated" if existing else "created"
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
