"""What the steps ask of a cluster: read from a file in profiles/, or from one of the user's own."""

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

from trainer.common.errors import UserError

FOLDER = Path(__file__).parent

# As Kubernetes writes it: 500m CPUs, 8Gi of memory.
CPU = re.compile(r"\d+(\.\d+)?|\d+m")
MEMORY = re.compile(r"\d+(Ki|Mi|Gi|Ti|k|M|G|T)?")


@dataclass(frozen=True)
class Train:
    """What training asks for. Only shared_memory, queue and retries cannot be set by a run.

    Attributes:
        accelerator_type: Target ("kubeflow", "vertex") -> what it calls the accelerator.
        accelerator_count: How many of them. 0: train on CPUs.
        cpu: CPUs that are kept for it.
        memory: Memory that is kept for it, of which it gets no more.
        shared_memory: Most of that for /dev/shm, through which GPUs talk; Docker's 64 MiB are few.
        node_selector: Label -> value of the nodes it may run on.
        tolerations: Taints of nodes it may run on in spite of, as Kubernetes writes them.
        queue: Name of a LocalQueue of Kueue, which admits the training step and its workers. Empty:
            none.
        retries: How often it is tried again, such as when its machine is taken away.
    """

    cpu: str
    memory: str
    accelerator_type: dict[str, str] = field(default_factory=dict)
    accelerator_count: int = 0
    shared_memory: str = "2Gi"
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict] = field(default_factory=list)
    queue: str = ""
    retries: int = 3


@dataclass(frozen=True)
class OtherSteps:
    """What each of the other steps asks for: what is kept for it, of which it may take more."""

    cpu: str
    memory: str


@dataclass(frozen=True)
class Volume:
    """A volume that every step mounts.

    Attributes:
        claim: Name of its PersistentVolumeClaim.
        path: Where the steps see it.
    """

    claim: str
    path: str


@dataclass(frozen=True)
class Profile:
    """What the steps ask of a cluster. A volume is for Kubeflow alone: Vertex AI has /gcs."""

    name: str
    train: Train
    other_steps: OtherSteps
    volume: Volume | None = None


def names() -> list[str]:
    """The profiles that come with us."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Profile:
    """The profile of that name, or in that file.

    Raises:
        UserError: there is none, or a setting in it is unknown, missing, or of no use.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(names())
        raise UserError(
            f"There is no profile {name!r}. There are {known}; or give a file, *.toml."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The profile {path} cannot be read: {error}.") from None
    kinds = {"train": Train, "other_steps": OtherSteps, "volume": Volume}
    if unknown := sorted(set(tables) - set(kinds)):
        raise UserError(f"{path}: there is no [{unknown[0]}]; there are {', '.join(kinds)}.")
    parts = {table: _table(kinds[table], tables[table], f"{path}, [{table}]") for table in tables}
    if missing := [table for table in ("train", "other_steps") if table not in parts]:
        raise UserError(f"{path}: [{missing[0]}] is missing.")
    profile = Profile(path.stem, **parts)
    for target in ("kubeflow", "vertex") if profile.train.accelerator_count else ():
        if target not in profile.train.accelerator_type:
            raise UserError(f"{path}, [train]: accelerator_type.{target} is missing.")
    return profile


def _table(kind, values: dict, where: str):
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"{where}: there is no {unknown[0]}; there are {', '.join(sorted(known))}.")
    try:
        table = kind(**values)
    except TypeError:
        needed = [f.name for f in fields(kind)][:2]
        raise UserError(f"{where}: {' and '.join(needed)} must be given.") from None
    for f in fields(kind):
        value = getattr(table, f.name)
        expected = getattr(f.type, "__origin__", f.type)
        if type(value) is not expected:
            raise UserError(
                f"{where}: {f.name} must be of type {expected.__name__}; got {value!r}."
            )
    for name, form in (("cpu", CPU), ("memory", MEMORY), ("shared_memory", MEMORY)):
        if name in known and not form.fullmatch(getattr(table, name)):
            example = "500m or 2" if form is CPU else "512Mi or 8Gi"
            raise UserError(
                f"{where}: {name} must be like {example}; got {getattr(table, name)!r}."
            )
    return table
