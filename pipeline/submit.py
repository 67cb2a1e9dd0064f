"""Runs the compiled pipeline on Kubeflow or on Vertex AI: python -m pipeline submit."""

import sys
import time
import uuid
from dataclasses import dataclass, fields

from pipeline import parameters
from pipeline.checks import check
from pipeline.kubeflow.connection import ConnectionConfig, resolve, secret_free
from pipeline.paths import BUILD
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback

FILES = {"kubeflow": BUILD / "pipeline.yaml", "vertex": BUILD / "pipeline.vertex.client.yaml"}
EXPERIMENT = "yt8m-pipeline"


@dataclass(frozen=True, repr=False)
class PackageConfig(ConnectionConfig):
    """What of the pipeline is sent where; common to the commands that send it."""

    target: str = flag("kubeflow", "Where to: kubeflow or vertex.", "What to run")
    pipeline: str = flag("", "Compiled pipeline. Default: what `compile` wrote.", "What to run")
    params: str = flag("", "TOML or YAML file of parameters.", "What to run")
    cache: bool = flag(
        True,
        "Reuse the training of an earlier run with the same data, flags and code. --nocache trains "
        "a new model.",
        "What to run",
    )
    experiment: str = flag(EXPERIMENT, "Experiment to put the run in.", "What to run")
    service_account: str = flag("", "Account that the steps run as.", "What to run")
    pipeline_root: str = flag("", "Where the steps' artifacts are kept.", "What to run")
    dry_run: bool = flag(False, "Say what would be sent, and send nothing.", "What to run")

    project: str = flag("", "Google Cloud project. Default: gcloud's.", "Vertex AI")
    region: str = flag("us-central1", "Google Cloud region.", "Vertex AI")
    labels: str = flag("", "Labels, comma-separated, e.g. team=video,stage=test.", "Vertex AI")
    network: str = flag("", "VPC network that the steps are in.", "Vertex AI")

    def __post_init__(self):
        if self.target not in FILES:
            raise UserError(f"--target must be {' or '.join(FILES)}; got {self.target!r}.")


@dataclass(frozen=True, repr=False)
class SubmitConfig(PackageConfig):
    """Runs the compiled pipeline with parameters, each as name=value or -p name=value."""

    run_name: str = flag("", "What to call the run. Default: its version and time.", "The run")
    wait: bool = flag(False, "Follow the run; exit with 0 only if it succeeds.", "The run")
    timeout: float = flag(24.0, "Hours to follow it at most.", "The run")


def split(argv: list[str], config_class) -> tuple[list[str], list[str]]:
    """The command's flags, as `parse` takes them, and its words name=value, with or without -p."""
    takes_value = {field.name for field in fields(config_class) if field.type is not bool}
    flags, words = argv[:1], []
    rest = iter(argv[1:])
    for word in rest:
        if word == "-p":
            words.append(next(rest, ""))
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("no-", "no", 1) if name.startswith("no-") else name
            name = name.replace("-", "_")
            flags.append(f"--{name}{equals}{value}")
            if name in takes_value and not equals:
                flags += [value for value in [next(rest, None)] if value is not None]
        elif "=" in word:
            words.append(word)
        else:
            flags.append(word)
    return flags, words


def prepare(config: PackageConfig, words: list[str]):
    """The package, and the values of its parameters.

    Raises:
        UserError: there is no compiled pipeline; a parameter is unknown, missing, of the wrong
            type, or one that a step would refuse.
    """
    from pipeline import package  # loads yaml

    compiled = package.read(config.pipeline or str(FILES[config.target]))
    values = parameters.read(config.params, compiled.parameters) if config.params else {}
    values |= parameters.parse(words, compiled.parameters)
    if not config.cache:
        values["reuse_training"] = False
    parameters.require(values, compiled.parameters)
    check(_complete(compiled, values))
    return compiled, values


def main(argv: list[str]):
    """The command."""
    with without_traceback():
        flags, words = split(argv, SubmitConfig)
        config = parse(SubmitConfig, flags)
        compiled, values = prepare(config, words)
        if config.target == "vertex":
            from pipeline.vertex import client as vertex

            sys.exit(vertex.submit(config, compiled, values))
        sys.exit(submit(config, compiled, values))


def submit(config: SubmitConfig, compiled, values: dict) -> int:
    """Runs the package on Kubeflow.

    Returns:
        The exit code: 0; or, of a run that was followed, that of its end.
    """
    connection = resolve(config)
    name = config.run_name or f"{compiled.version}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if config.dry_run:
        what = {"version": compiled.version, "run": name, "experiment": config.experiment}
        show(secret_free(connection) | what, compiled, values)
        return 0

    from pipeline.kubeflow import client as kubeflow  # load kfp
    from pipeline.kubeflow import (
        follow,  # load kfp
        upload,  # load kfp
    )

    with kubeflow.explained(connection):
        client = kubeflow.connect(connection)
        pipeline_id, version_id, is_new = upload.upload(client, connection, compiled)
        state = "uploaded" if is_new else "there already"
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
                _needs(compiled, values),
                lambda: _explain_nodes(compiled, values),
            )
        except KeyboardInterrupt:
            print("\nNo longer followed; the run goes on.", file=sys.stderr)
            return 130
        return _tell(client, run, compiled.steps, link)


def _complete(compiled, values: dict) -> dict:
    """The values of all parameters."""
    defaults = {name: p.default for name, p in compiled.parameters.items() if p.default is not None}
    return defaults | values


def _needs(compiled, values: dict) -> dict[str, str]:
    """What the nodes of the steps must have: name of a step's task -> "1 x nvidia.com/gpu"."""
    values = _complete(compiled, values)
    if values.get("accelerator_count", "0") == "0":
        return {}
    return {"train": f"{values['accelerator_count']} x {values['accelerator_type']}"}


def _explain_nodes(compiled, values: dict) -> str:
    """What `doctor` says about the nodes."""
    from pipeline import doctor

    try:
        found = doctor.nodes(_complete(compiled, values))
    except (doctor.NotChecked, UserError) as error:
        found = str(error)
    return f"          Nodes: {found}. `make doctor` with the same ARGS checks more."


def show(where: dict, compiled, values: dict):
    """Says what would be sent, and where to."""
    print("Nothing is sent (--dry-run). It would be:")
    for name, value in where.items():
        print(f"  {name + ':':<17}{value}")
    for name, parameter in compiled.parameters.items():
        mark = "" if name in values else "  (default)"
        print(f"    {name} = {values.get(name, parameter.default)!r}{mark}")


def _create(client, config: SubmitConfig, experiment_id, version: tuple[str, str], name, values):
    """The run, made once."""
    import kfp_server_api as api

    from pipeline.kubeflow import client as kubeflow

    mark = f"Submission {uuid.uuid4()}"

    def find():
        listed = client.runs.run_service_list_runs
        found = kubeflow.every(
            listed, "runs", experiment_id=experiment_id, sort_by="created_at desc"
        )
        return next((run for run in found if run.description == mark), None)

    def create():
        return client.runs.run_service_create_run(
            run=api.V2beta1Run(
                experiment_id=experiment_id,
                display_name=name,
                description=mark,
                pipeline_version_reference=api.V2beta1PipelineVersionReference(*version),
                runtime_config=api.V2beta1RuntimeConfig(values, config.pipeline_root or None),
                service_account=config.service_account or None,
            )
        )

    return kubeflow.ensure(find, create, look_first=False)[0]


def _tell(client, run, steps: dict[str, str], link: str) -> int:
    """Say how the run ended; return the exit code."""
    from pipeline.kubeflow import follow

    state = follow.state(run)
    if state not in follow.EXIT_CODES:
        print(
            f"error: The run goes on, but is followed no longer (--timeout): {link}",
            file=sys.stderr,
        )
        return follow.STILL_RUNNING
    was = "was " if state in ("CANCELED", "SKIPPED") else ""
    print(f"The run {was}{state.lower()}.")
    if state == "FAILED":
        step, why = follow.failure(client, run, steps)
        print(f"error: {step or 'The run'} failed{': ' + why if why else '.'}", file=sys.stderr)
        print(f"Run: {link}", file=sys.stderr)
    return follow.EXIT_CODES[state]


if __name__ == "__main__":
    main(["python -m pipeline.submit", *sys.argv[1:]])
