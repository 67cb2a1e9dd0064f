"""Resources that the steps request from a cluster, read from a TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from trainer.common.errors import UserError

FOLDER = Path(__file__).parent
DEFAULT = "cpu"

# As in Kubernetes, e.g. 500m CPUs, 8Gi of memory.
Cpu = Annotated[str, Field(pattern=r"^(\d+(\.\d+)?|\d+m)$")]
Memory = Annotated[str, Field(pattern=r"^\d+(Ki|Mi|Gi|Ti|k|M|G|T)?$")]


class _Table(BaseModel, frozen=True, extra="forbid", strict=True):
    """A table of the file: immutable, without unknown keys or conversions of types."""


class Train(_Table):
    """Resources of the training step. A run can override all but shared_memory, queue and retries.

    Attributes:
        accelerator_type: Target ("kubeflow", "vertex") -> its name of the accelerator.
        accelerator_count: Number of accelerators. 0: train on CPUs.
        cpu: CPU request.
        memory: Memory request and limit.
        shared_memory: Size limit of /dev/shm, through which GPUs communicate, and which is part of
            the memory. The default of container runtimes, 64 MiB, is too small.
        node_selector: Labels of the nodes that it may run on.
        tolerations: Tolerations of node taints, as in Kubernetes.
        queue: Kueue's LocalQueue of the training step and of its workers. Empty: none.
        retries: Maximum number of retries, e.g. after its node is lost.
    """

    cpu: Cpu
    memory: Memory
    accelerator_type: dict[str, str] = {}
    accelerator_count: int = 0
    shared_memory: Memory = "2Gi"
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    queue: str = ""
    retries: int = 3


class OtherSteps(_Table):
    """CPU and memory requests of each of the other steps, without limits."""

    cpu: Cpu
    memory: Memory


class Volume(_Table):
    """A volume that every step mounts.

    Attributes:
        claim: Name of its PersistentVolumeClaim.
        path: Where it is mounted.
    """

    claim: str
    path: str


class Profile(_Table):
    """Resources of all steps. Only Kubeflow mounts the volume; Vertex AI mounts buckets at /gcs."""

    name: str
    train: Train
    other_steps: OtherSteps
    volume: Volume | None = None


TABLES = {"train": Train, "other_steps": OtherSteps, "volume": Volume}


def names() -> list[str]:
    """Return the names of the profiles in this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Profile:
    """Return the profile of this name, or in this TOML file.

    Raises:
        UserError: The profile does not exist, or a setting is unknown, missing or invalid.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        profile = Profile.model_validate(tomllib.loads(path.read_text()) | {"name": path.stem})
    except FileNotFoundError:
        known = ", ".join(names())
        message = f"There is no profile {name!r}. Give one of {known}, or a TOML file."
        raise UserError(message) from None
    except ValidationError as invalid:
        raise UserError(f"{path}: {_explain(invalid)}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The profile {path} cannot be read: {error}.") from None
    for target in ("kubeflow", "vertex") if profile.train.accelerator_count else ():
        if target not in profile.train.accelerator_type:
            raise UserError(f"{path}: train.accelerator_type.{target} is missing.")
    return profile


def _explain(invalid: ValidationError) -> str:
    """Return what is wrong with the first key that is unknown, missing or invalid."""
    errors = invalid.errors(include_url=False)
    error = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    *table, name = map(str, error["loc"])
    key = ".".join([*table, name])
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        model = TABLES[table[0]] if table else Profile
        return f"{key} is no setting; expected {', '.join(sorted(model.model_fields))}"
    if error["type"] == "string_pattern_mismatch":
        expected = "must be like " + ("500m or 2" if name == "cpu" else "512Mi or 8Gi")
    else:
        expected = error["msg"].replace("Input should", "must")
    return f"{key} {expected}; got {error['input']!r}"
