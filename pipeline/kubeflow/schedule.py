"""Schedules of the compiled pipeline on Kubeflow, as recurring runs."""

import hashlib
import json
import re
import time
from datetime import UTC, datetime

import kfp_server_api as api
from kfp_server_api import ApiException

from pipeline import cron
from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow import upload
from pipeline.kubeflow.connection import ConnectionConfig, resolve, secret_free
from pipeline.prepare import check_repeatable, prepare, show
from trainer.common.errors import UserError

UNFINISHED = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED")
MARGIN_SECONDS = 5  # A schedule is not replaced so close to a time at which it fires.


def set_schedule(config, words: list[str]):
    """Create the schedule, or replace it if it differs."""
    compiled, values = prepare(config, words)
    check_repeatable(values)
    connection = resolve(config, host_required=not config.dry_run)
    expression = cron.announce(config.cron)
    if config.dry_run:
        what = {"schedule": config.name, "cron": expression, "version": compiled.version}
        return show(secret_free(connection) | what, compiled, values)

    with kubeflow.explained(connection):
        client = kubeflow.connect(connection)
        pipeline_id, version_id, _ = upload.upload(client, connection, compiled)
        experiment_id = upload.experiment(client, connection, config.experiment)
        wanted = _wanted(config, expression, values, experiment_id, pipeline_id, version_id)
        done = _put(client, connection, config, wanted)
    version = "the newest at the time" if config.latest else compiled.version
    print(f"Schedule: {config.name} ({done})\nVersion:  {version}")


def _wanted(config, expression, values, experiment_id, pipeline_id, version_id):
    """Return the schedule to create. Its description contains a digest of its settings."""
    wanted = api.V2beta1RecurringRun(
        display_name=config.name,
        experiment_id=experiment_id,
        mode=api.RecurringRunMode.ENABLE,
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=expression)),
        pipeline_version_reference=api.V2beta1PipelineVersionReference(
            pipeline_id, None if config.latest else version_id
        ),
        runtime_config=api.V2beta1RuntimeConfig(values, config.pipeline_root or None),
        service_account=config.service_account or None,
        no_catchup=not config.catchup,
        max_concurrency=config.max_concurrency,
    )
    content = json.dumps(wanted.to_dict(), sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    wanted.description = f"{cron.words(expression)} (UTC). Settings {digest}."
    return wanted


def _put(client, connection: ConnectionConfig, config, wanted) -> str:
    """Make `wanted` the only enabled schedule of its name; return what was done.

    The API cannot update a schedule, and deleting one ends its runs in progress. So a new schedule
    is created and the old one disabled. The old one is deleted when it has no run in progress: now,
    or by a later command.
    """

    def same(schedule) -> bool:
        # By the digest, because the server fills in defaults.
        return _digest(schedule) == _digest(wanted)

    def find():
        return next(filter(same, _of_name(client, connection, config.name)), None)

    def create():
        create_one = client.recurring_runs.recurring_run_service_create_recurring_run
        return create_one(recurring_run=wanted)

    existing = _of_name(client, connection, config.name)
    keep = next(filter(same, existing), None)
    others = [schedule for schedule in existing if schedule is not keep]
    if keep is None:
        if others and all(schedule.status == "DISABLED" for schedule in others):
            wanted.mode = "DISABLE"
        _pass_firing(others)
        kubeflow.ensure(find, create, look_first=False)
    _retire(client, connection, others)
    paused = ", paused as before" if (keep or wanted).mode == "DISABLE" else ""
    return ("unchanged" if keep else "updated" if others else "created") + paused


def _pass_firing(schedules: list):
    """If one of the schedules is about to fire, wait until it has, so that no run is missed."""
    crons = [s.trigger.cron_schedule for s in schedules if s.trigger and s.status != "DISABLED"]
    for schedule in filter(None, crons):
        now = datetime.now(UTC)
        try:
            (firing,) = cron.next_firings(schedule.cron, now, 1)
        except ValueError:  # created by another client, in a dialect that `cron` does not support
            continue
        if (seconds := (firing - now).total_seconds()) < MARGIN_SECONDS:
            time.sleep(seconds + MARGIN_SECONDS)


def _retire(client, connection: ConnectionConfig, schedules: list):
    """Disable schedules, and delete those without a run in progress."""
    for schedule in schedules:
        if schedule.status != "DISABLED":
            _set_enabled(client, schedule, False)
        if runs := _in_progress(client, connection, schedule):
            print(
                f"Replaced: the schedule of {schedule.created_at:%d %b %Y %H:%M} is disabled. It "
                f"has {_count(runs)} in progress; a later `schedule` command deletes it."
            )
        else:
            _delete(client, schedule)


def _in_progress(client, connection: ConnectionConfig, schedule) -> list:
    """Return the schedule's runs that have not ended."""
    predicates = [
        {
            "operation": "EQUALS",
            "key": "recurring_run_id",
            "stringValue": schedule.recurring_run_id,
        },
        {"operation": "IN", "key": "state", "stringValues": {"values": list(UNFINISHED)}},
    ]
    runs = kubeflow.every(
        client.runs.run_service_list_runs,
        "runs",
        filter=json.dumps({"predicates": predicates}),
        **kubeflow.in_namespace(connection),
    )
    return [
        run
        for run in runs
        if run.recurring_run_id == schedule.recurring_run_id and run.state in UNFINISHED
    ]


def _count(runs: list) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


def _set_enabled(client, schedule, enabled: bool):
    recurring = client.recurring_runs
    change = (
        recurring.recurring_run_service_enable_recurring_run
        if enabled
        else recurring.recurring_run_service_disable_recurring_run
    )
    change(schedule.recurring_run_id)


def _digest(schedule) -> str | None:
    match = re.search(r"Settings ([0-9a-f]{16})\.", schedule.description or "")
    return match and match[1]


def _of_name(client, connection: ConnectionConfig, name: str) -> list:
    return [schedule for schedule in _all(client, connection) if schedule.display_name == name]


def _all(client, connection: ConnectionConfig) -> list:
    listed = client.recurring_runs.recurring_run_service_list_recurring_runs
    return list(kubeflow.every(listed, "recurring_runs", **kubeflow.in_namespace(connection)))


def _delete(client, schedule):
    try:
        client.recurring_runs.recurring_run_service_delete_recurring_run(schedule.recurring_run_id)
    except ApiException as error:
        if error.status != 404:  # deleted already, perhaps by an earlier attempt
            raise


def change(config, action: str):
    """List all schedules; or pause, resume or delete the schedule named config.name."""
    connection = resolve(config)
    with kubeflow.explained(connection):
        client = kubeflow.connect(connection)
        if action == "list":
            return _list(_all(client, connection))
        schedules = _of_name(client, connection, config.name)
        if not schedules:
            raise UserError(f"There is no schedule {config.name!r}. List schedules with `list`.")
        if action == "delete":
            _delete_all(client, connection, config, schedules)
        else:
            # The older ones were replaced, and had a run in progress.
            *replaced, current = sorted(schedules, key=lambda schedule: schedule.created_at)
            _set_enabled(client, current, action == "resume")
            _retire(client, connection, replaced)
    print(f"Schedule: {config.name} ({action.removesuffix('e')}ed)")


def _delete_all(client, connection: ConnectionConfig, config, schedules: list):
    """Delete schedules; without --force, raise UserError if a run is in progress."""
    runs = [run for s in schedules for run in _in_progress(client, connection, s)]
    if runs and not config.force:
        links = "\n".join(f"  {kubeflow.run_link(connection, run.run_id)}" for run in runs)
        raise UserError(
            f"The schedule {config.name!r} has {_count(runs)} in progress. Deleting it would end "
            f"them without a summary or a retry:\n{links}\nPause it and delete it when they have "
            "ended, or use --force."
        )
    for schedule in schedules:
        _delete(client, schedule)


def _list(schedules: list):
    if not schedules:
        print("There are no schedules.")
    for schedule in sorted(schedules, key=lambda schedule: schedule.display_name):
        timing = schedule.trigger and schedule.trigger.cron_schedule
        when = "at intervals"
        if timing:
            try:
                when = f"{cron.words(timing.cron)} (UTC)"
            except ValueError:
                when = timing.cron
        state = "paused" if schedule.status == "DISABLED" else "on"
        print(f"{schedule.display_name:<24} {state:<8} {when}")
