"""The compiled pipeline and its parameters, as they are sent to a server."""

from dataclasses import dataclass
from typing import Literal

from pipeline import parameters
from pipeline.command_line import TARGET_GROUPS, option
from pipeline.kubeflow.connection import ConnectionConfig
from pipeline.paths import BUILD, COMPILED, compiled_files
from trainer.common.errors import UserError

EXPERIMENT = "yt8m-pipeline"
KUBEFLOW, VERTEX = TARGET_GROUPS["kubeflow"], TARGET_GROUPS["vertex"]


@dataclass(frozen=True, repr=False)
class PackageConfig(ConnectionConfig):
    """Options of the commands that send the pipeline to a server."""

    target: Literal["kubeflow", "vertex"] = option(
        "kubeflow", "Kubeflow Pipelines or Vertex AI Pipelines."
    )
    pipeline: str = option(
        "train", "Pipeline compiled by `compile`, train or predict, or a compiled file."
    )
    params: str = option("", "TOML or YAML file of parameters.")
    no_cache: bool = option(
        False, "Train a new model even if an earlier run used the same data, flags and code."
    )
    service_account: str = option("", "Service account that the steps run as.")
    pipeline_root: str = option("", "URI of the folder for the steps' artifacts.")
    dry_run: bool = option(False, "Print what would be sent, and send nothing.")
    experiment: str = option(EXPERIMENT, "Experiment of the run.", KUBEFLOW)
    project: str = option("", "Google Cloud project. Default: the one set in gcloud.", VERTEX)
    region: str = option("us-central1", "Google Cloud region.", VERTEX)
    labels: str = option("", "Comma-separated labels, e.g. team=video,stage=test.", VERTEX)
    network: str = option("", "VPC network of the steps.", VERTEX)


def prepare(config: PackageConfig, arguments: list[str]):
    """Return the compiled pipeline and the values of its parameters.

    Raises:
        UserError: There is no compiled pipeline, or a parameter is unknown, missing or invalid.
    """
    from pipeline import package
    from pipeline.checks import check  # loads NumPy

    file = config.pipeline
    if file in COMPILED:
        file = compiled_files(BUILD, file)[config.target]
    compiled = package.read(str(file))
    values = parameters.read(config.params, compiled.parameters) if config.params else {}
    values |= parameters.parse(arguments, compiled.parameters)
    if config.no_cache and "reuse_training" in compiled.parameters:
        values["reuse_training"] = False
    parameters.require(values, compiled.parameters)
    check(parameters.with_defaults(values, compiled.parameters))
    return compiled, values


def show(where: dict, compiled, values: dict):
    """Print what would be sent, and where to."""
    print("Dry run, nothing is sent:")
    for name, value in where.items():
        print(f"  {name + ':':<17}{value}")
    for name, parameter in compiled.parameters.items():
        mark = "" if name in values else "  (default)"
        print(f"    {name} = {values.get(name, parameter.default)!r}{mark}")


def check_repeatable(values: dict):
    """Raise UserError for parameters that the runs of a schedule cannot share."""
    if values.get("run_name"):
        raise UserError("The runs of a schedule need different names; leave run_name out.")
