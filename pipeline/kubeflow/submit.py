"""Submit the compiled pipeline to Kubeflow Pipelines."""

import sys
import uuid
from datetime import UTC, datetime

import kfp_server_api as api

from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow import follow, upload
from pipeline.kubeflow.connection import resolve, secret_free
from pipeline.naming import run_name
from pipeline.parameters import with_defaults
from pipeline.prepare import show
from trainer.common.errors import UserError


def submit(config, compiled, values: dict) -> int:
    """Create a run; return the exit code, which with --wait is that of the run's final state."""
    connection = resolve(config, host_required=not config.dry_run)
    all_values = with_defaults(values, compiled.parameters)
    name = config.run_name or run_name(all_values, datetime.now(UTC))
    if config.dry_run:
        what = {"version": compiled.version, "run": name, "experiment": config.experiment}
        show(secret_free(connection) | what, compiled, values)
        return 0

    with kubeflow.explained(connection):
        client = kubeflow.connect(connection)
        pipeline_id, version_id, is_new = upload.upload(client, connection, compiled)
        state = "uploaded" if is_new else "exists"
        print(f"Version:  {compiled.version} ({state})")
        print(f"          {kubeflow.version_link(connection, pipeline_id, version_id)}")
        experiment_id = upload.experiment(client, connection, config.experiment)
        run = _create(client, config, experiment_id, (pipeline_id, version_id), name, values)
        link = kubeflow.run_link(connection, run.run_id)
        print(f"Run:      {name}\n          {link}", flush=True)
        if not config.wait:
            return 0
        try:
            run = follow.follow(
                client,
                connection,
                run.run_id,
                compiled.steps,
                config.timeout * 3600,
                _needs(all_values),
                lambda: _explain_nodes(all_values),
            )
        except KeyboardInterrupt:
            print("\nThe run continues, but is no longer followed.", file=sys.stderr)
            return 130
        namespace = connection.namespace or "kubeflow"
        return _report(client, run, compiled.steps, link, namespace)


def _needs(values: dict) -> dict[str, str]:
    """Return name of a task -> resources it requests, e.g. "1 x nvidia.com/gpu"."""
    if values.get("accelerator_count", "0") == "0":
        return {}
    return {"train": f"{values['accelerator_count']} x {values['accelerator_type']}"}


def _explain_nodes(values: dict) -> str:
    """Return the result of doctor's check of the nodes."""
    from pipeline import doctor

    try:
        found = doctor.nodes(values)
    except (doctor.NotChecked, UserError) as error:
        found = str(error)
    return f"          Nodes: {found}. `make doctor` with the same ARGS checks more."


def _create(client, config, experiment_id, version: tuple[str, str], name, values):
    """Create the run exactly once: its unique description finds it if the answer is lost."""
    description = f"Submission {uuid.uuid4()}"

    def find():
        listed = client.runs.run_service_list_runs
        found = kubeflow.every(
            listed, "runs", experiment_id=experiment_id, sort_by="created_at desc"
        )
        return next((run for run in found if run.description == description), None)

    def create():
        return client.runs.run_service_create_run(
            run=api.V2beta1Run(
                experiment_id=experiment_id,
                display_name=name,
                description=description,
                pipeline_version_reference=api.V2beta1PipelineVersionReference(*version),
                runtime_config=api.V2beta1RuntimeConfig(values, config.pipeline_root or None),
                service_account=config.service_account or None,
            )
        )

    return kubeflow.ensure(find, create, look_first=False)[0]


def _report(client, run, steps: dict[str, str], link: str, namespace: str) -> int:
    """Print how the run ended; return the exit code."""
    state = follow.state(run)
    if state not in follow.EXIT_CODES:
        print(
            f"error: The run continues, but is no longer followed (--timeout): {link}",
            file=sys.stderr,
        )
        return follow.STILL_RUNNING
    was = "was " if state in ("CANCELED", "SKIPPED") else ""
    print(f"The run {was}{state.lower()}.")
    if state == "FAILED":
        step, why = follow.failure(client, run, steps, namespace)
        print(f"error: {step or 'The run'} failed{': ' + why if why else '.'}", file=sys.stderr)
        print(f"Run: {link}", file=sys.stderr)
    return follow.EXIT_CODES[state]
