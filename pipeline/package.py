"""A compiled pipeline as it is sent to a server: content, version and parameters."""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.parameters import Parameter, parameters_of_spec
from pipeline.paths import ROOT
from trainer.common.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        name: Name of the pipeline.
        description: Description in Markdown.
        version: COMMIT-HASH, where HASH is that of the text; COMMIT-dirty-HASH if files differ
            from the commit.
        text: Compiled YAML.
        parameters: Name -> parameter.
        images: Names of the steps' images.
        steps: Name of a step's task -> display name.
    """

    name: str
    description: str
    version: str
    text: str
    parameters: dict[str, Parameter]
    images: list[str]
    steps: dict[str, str]


def read(path: str) -> Package:
    """Read a compiled pipeline from a file that `compile` wrote.

    Raises:
        UserError: The file cannot be read, or is not a compiled pipeline.
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
        raise UserError(f"{path} is not a compiled pipeline. `make compile` writes one.") from None
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
    """Return the graph and its nested graphs, such as those of conditions."""
    return [part["dag"] for part in (spec["root"], *spec["components"].values()) if "dag" in part]


def commit() -> str:
    """Return the abbreviated commit, with -dirty if files differ from it; "nogit" without git."""
    # In CI's containers another user may own the files, which git refuses by default.
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
