"""What is sent to a server: the compiled pipeline, and the values of its parameters."""

from dataclasses import dataclass, fields

from pipeline import parameters
from pipeline.checks import check
from pipeline.kubeflow.connection import ConnectionConfig
from pipeline.paths import BUILD
from trainer.common.command_line import flag
from trainer.common.errors import UserError

FILES = {"kubeflow": BUILD / "pipeline.yaml", "vertex": BUILD / "pipeline.vertex.yaml"}
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
    check(complete(compiled, values))
    return compiled, values


def complete(compiled, values: dict) -> dict:
    """The values of all parameters."""
    defaults = {name: p.default for name, p in compiled.parameters.items() if p.default is not None}
    return defaults | values


def show(where: dict, compiled, values: dict):
    """Says what would be sent, and where to."""
    print("Nothing is sent (--dry-run). It would be:")
    for name, value in where.items():
        print(f"  {name + ':':<17}{value}")
    for name, parameter in compiled.parameters.items():
        mark = "" if name in values else "  (default)"
        print(f"    {name} = {values.get(name, parameter.default)!r}{mark}")


def check_values(values: dict):
    """Raises UserError for parameters that runs cannot share."""
    if values.get("run_name"):
        raise UserError("Each run of a schedule needs a name of its own; leave run_name out.")
