"""Images, backends, descriptions and settings of steps, for all graphs."""

import re
from dataclasses import dataclass

from kfp import dsl, kubernetes

from pipeline.parameters import Parameter, parameters_of
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile

NUMERALS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Images:
    """The images that hold our packages, each with what its steps need."""

    data: str  # Beam, no TensorFlow
    trainer: str  # TensorFlow

    @property
    def are_pinned(self) -> bool:
        """Whether all are named by their digest."""
        return all("@sha256:" in name for name in (self.data, self.trainer))


@dataclass(frozen=True)
class Target:
    """Properties of a backend."""

    name: str
    no_accelerator: str  # the accelerator_type to start from, with which a count of 0 is a CPU
    has_kubernetes: bool  # reads the settings of kfp-kubernetes


TARGETS = {
    "kubeflow": Target("kubeflow", no_accelerator="nvidia.com/gpu", has_kubernetes=True),
    "vertex": Target("vertex", no_accelerator="ACCELERATOR_TYPE_UNSPECIFIED", has_kubernetes=False),
}


def described(function, name: str, profile: Profile, groups: dict[str, tuple[str, ...]]):
    """Return the pipeline of a function, described by its docstring and tables of its parameters.

    Args:
        function: The pipeline's function.
        name: The pipeline's name.
        profile: Its name is a part of the pipeline's, except for the default.
        groups: A table's title -> parameters, or prefixes; an empty one has all others.
    """
    # A pipeline for each profile, so that its newest version has the same profile.
    if profile.name != profiles.DEFAULT:
        name = f"{name}-{_slug(profile.name)}"
    plain = dsl.pipeline(function, name=name)
    description = _description(plain.description, parameters_of(plain), groups)
    return dsl.pipeline(function, name=name, description=description)


def _description(
    text: str, parameters: dict[str, Parameter], groups: dict[str, tuple[str, ...]]
) -> str:
    """The pipeline's description, in Markdown.

    Kubeflow's UI shows it in a narrow card that does not scroll, and keeps line breaks. So each
    paragraph is one line, and only the required parameters are explained.

    Args:
        text: A line of summary, and the lines of a paragraph.
        parameters: Name -> parameter.
        groups: As in `described`.
    """
    summary, _, paragraph = text.partition("\n")
    grouped = {title: [] for title in groups}
    for name in parameters:
        grouped[group_of(name, groups)].append(name)
    required = grouped.pop("Required")
    lines = [f"- `{name}`: {parameters[name].description}" for name in required]
    lines += [
        f"- **{title}**: {', '.join(f'`{name}`' for name in names)}"
        for title, names in grouped.items()
    ]
    parts = [
        summary,
        " ".join(paragraph.split()),
        f"**Parameters**, of which the first {NUMERALS[len(required)]} are required "
        "(`make run ARGS=--list-parameters` explains all):",
        "\n".join(lines),
    ]
    return "\n\n".join(parts)


def group_of(name: str, groups: dict[str, tuple[str, ...]]) -> str:
    """Return the title of a parameter's group; groups as in `described`."""
    for title, names in groups.items():
        if any(name == other or (other[-1] == "_" and name.startswith(other)) for other in names):
            return title
    return next(title for title, names in groups.items() if not names)


def _slug(name: str) -> str:
    """The name in the characters that Kubeflow allows in a pipeline's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run_inputs(output_dir, run_name) -> dict:
    """Return the inputs by which every step finds the run's folder."""
    return {
        "output_dir": output_dir,
        "run_name": run_name,
        # Alone, not as part of a text: Kubeflow fills in a placeholder only where it is all.
        "job_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        "job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    }


def configurer(target: Target, profile: Profile):
    """Return the function that sets what every step has: its name, image, retries and resources."""

    def configure(task, display_name: str, image: str, retries: int, cache: bool = False):
        task.set_display_name(display_name)
        task.set_container_image(image)
        task.set_caching_options(cache)
        # Retries after 30 s, 1 min, 2 min and so on. Kubeflow stops all tries when the maximum
        # duration has passed since the first one began, so it must exceed the longest training.
        task.set_retry(
            retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="30d"
        )
        if not target.has_kubernetes:
            task.set_cpu_limit(profile.other_steps.cpu)
            task.set_memory_limit(profile.other_steps.memory)
            return
        task.set_cpu_request(profile.other_steps.cpu)
        task.set_memory_request(profile.other_steps.memory)
        kubernetes.set_security_context(task, run_as_non_root=True)
        if profile.volume:
            kubernetes.mount_pvc(task, profile.volume.claim, profile.volume.path)

    return configure
