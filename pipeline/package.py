"""A compiled pipeline as it is sent to a server: its bytes, its version, its parameters."""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.parameters import Parameter, parameters_of_spec
from pipeline.paths import ROOT
from trainer.common.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where there is C


@dataclass(frozen=True)
class Package:
    """What is sent.

    Attributes:
        name: The pipeline's name.
        description: What it does, in Markdown.
        version: Names the code and the content: COMMIT-HASH, or COMMIT-dirty-HASH where files
            were changed since.
        text: The compiled YAML.
        parameters: Name -> parameter.
        images: Names of the images that the steps run in.
        steps: Name of a step's task -> the name to show.
    """

    name: str
    description: str
    version: str
    text: str
    parameters: dict[str, Parameter]
    images: list[str]
    steps: dict[str, str]


def read(path: str) -> Package:
    """The compiled pipeline in a file.

    Args:
        path: File that `compile` wrote.

    Raises:
        UserError: it cannot be read, or is no compiled pipeline.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        message = f"Cannot read the compiled pipeline: {error}. `make compile` writes it."
        raise UserError(message) from None
    try:
        documents = list(yaml.load_all(text, LOADER))
        spec = documents[0]
        info, components = spec["pipelineInfo"], spec["components"]
    except (yaml.YAMLError, IndexError, TypeError, KeyError):
        raise UserError(f"{path} is no compiled pipeline. `make compile` writes one.") from None
    return Package(
        name=info["name"],
        description=info.get("description", ""),
        version=f"{commit()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        text=text,
        parameters=parameters_of_spec(spec),
        images=sorted(
            {
                executor["container"]["image"]
                for executor in spec["deploymentSpec"]["executors"].values()
            }
        ),
        steps={
            name: task["taskInfo"]["name"]
            for dag in _dags(spec)
            for name, task in dag["tasks"].items()
            if "executorLabel" in components[task["componentRef"]["name"]]
        },
    )


def _dags(spec: dict) -> list[dict]:
    """The graph, and the graphs in it, such as a condition's."""
    return [part["dag"] for part in (spec["root"], *spec["components"].values()) if "dag" in part]


def commit() -> str:
    """The commit's short name, with -dirty where files differ from it; "nogit" outside of git."""
    # In CI's containers the files may be of another user, which git would not have.
    git = ["git", "-c", f"safe.directory={ROOT}"]
    command = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return "nogit"
    return ran.stdout.strip() if ran.returncode == 0 else "nogit"


def library_versions() -> str:
    """Return 16 hex digits that identify the versions in the locks of the trainer's images."""
    locks = sorted((ROOT / "docker").glob("trainer-*.txt"))
    pins = [re.findall(r"^[^\s#]+==[^\s;\\]+", lock.read_text(), re.M) for lock in locks]
    return hashlib.sha256(repr(pins).encode()).hexdigest()[:16]
