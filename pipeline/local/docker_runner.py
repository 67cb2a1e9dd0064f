"""Runs a compiled pipeline on this machine through kfp's local runner, a step a container.

kfp's own way of it calls a step a success whose container is gone before its exit code is read, as
one that fails at once may be; runs it as root, so that what it makes belongs to root; and gives it
no files but those that steps hand to each other.
"""

import os
from pathlib import Path

import yaml
from kfp import local
from kfp.local import docker_task_handler

from components.train import parse_accelerator_count
from pipeline.images import SOURCES, warn_if_outdated
from pipeline.local import engine
from pipeline.local import subprocess_runner as local_runs
from trainer.common import storage
from trainer.common.errors import UserError

SHARED_MEMORY = "2g"  # as on a cluster
TEMPORARY = "/yt8m-tmp"  # not /tmp, for data may lie there
# What an image cannot do without: no data may be seen in its place.
OF_THE_IMAGE = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/venv", "/opt/yt8m", "/proc", "/sys")
OF_THE_IMAGE += ("/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/local/lib")
# Settings of the user that the steps are to have too.
PASSED_ON = (
    "GOOGLE_CLOUD_PROJECT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "TF_CPP_MIN_LOG_LEVEL",
)
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"


def run(pipeline: Path, arguments: dict, scratch: Path, job_id: str):
    """Runs the compiled pipeline in its images, showing the output of its steps as they go.

    A step sees the files that `arguments` name, where they are, read-only; output_dir; and nothing
    else of this machine. It runs as the user who runs this, on a read-only file system.

    Args:
        pipeline: File that was compiled for Kubeflow.
        arguments: Parameter -> value; paths are absolute.
        scratch: Folder for what the steps hand to each other. It is removed at the end.
        job_id: The unique id of the run.

    Raises:
        StepFailed: after the rest of the pipeline, of which the summary still runs.
        UserError: there is no engine, an image is missing, or a folder cannot be mounted.
    """
    ours = engine.connect()
    _check_images(ours, pipeline)
    files = _mounts(arguments)
    base_environment = _environment()
    requested_gpus = parse_accelerator_count(arguments.get("accelerator_count", "0"))
    settings = {
        "user": "0:0" if engine.maps_users(ours) else f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {TEMPORARY: "mode=1777"},
        "shm_size": SHARED_MEMORY,
        "security_opt": ["label=disable"],  # or SELinux hides what is mounted
    }

    # kfp's client gives up on an engine that is busy for a minute.
    def start(client, image, command, volumes, environment=None):
        name = local_runs.step_name(command)
        handed = [engine.mount(source, to["bind"]) for source, to in volumes.items()]
        num_gpus = requested_gpus if name == "train" else 0
        return name, engine.container(
            ours,
            image,
            command,
            mounts=[*handed, *files],
            environment=base_environment | (environment or {}),
            device_requests=engine.gpus(num_gpus),
            **settings,
        )

    with local_runs.scratch_folder(scratch) as folder:
        for name in ("root", "workspace"):
            (folder / name).mkdir()  # by us: the engine's would be root's
        replaced = (docker_task_handler, "run_docker_container")
        runner = local.DockerRunner()
        local_runs.run_steps(pipeline, arguments, folder, runner, replaced, start, job_id)


def _check_images(client, pipeline: Path):
    """Raises UserError where an image is missing; warns if one was made from other code."""
    spec = next(yaml.safe_load_all(pipeline.read_text()))
    executors = spec["deploymentSpec"]["executors"].values()
    for name in sorted({executor["container"]["image"] for executor in executors}):
        image = engine.find(client, name)
        if image is None:
            raise UserError(f"There is no image {name}: `make images` builds it.")
        warn_if_outdated(image.labels.get(SOURCES), name, "images")


def _mounts(arguments: dict) -> list:
    """The files that the arguments name, read-only, and output_dir."""
    read_only = {}
    for value in arguments.values():
        for pattern in str(value).split(","):
            if pattern.startswith("/") and value != arguments["output_dir"]:
                read_only |= _folders(pattern)
    credentials = os.environ.get(CREDENTIALS)
    if credentials:
        read_only[os.path.abspath(credentials)] = os.path.realpath(credentials)

    mounts = [engine.mount(source, target, True) for target, source in read_only.items()]
    output = arguments["output_dir"]
    if output.startswith("/"):
        Path(output).mkdir(parents=True, exist_ok=True)  # by us: the engine's would be root's
        mounts = [mount for mount in mounts if mount["Target"] != output]
        mounts.append(engine.mount(os.path.realpath(output), output))
    for mount in mounts:
        _check_target(mount["Target"])
    return mounts


def _folders(pattern: str) -> dict[str, str]:
    """Where the files of a pattern are to be seen -> where they are.

    Folders, for a pattern may name thousands of files; and, where a file is a link, that of the
    file which it leads to.
    """
    folders = {}
    for file in storage.glob(pattern):
        real = os.path.realpath(file)
        folders[os.path.dirname(file)] = os.path.realpath(os.path.dirname(file))
        folders.setdefault(os.path.dirname(real), os.path.dirname(real))
    return folders


def _check_target(folder: str):
    for needed in OF_THE_IMAGE:
        if os.path.commonpath([folder, needed]) == folder:
            raise UserError(
                f"Files in {folder} cannot be given to a container, which has its own there: move "
                "them to a folder of theirs."
            )


def _environment() -> dict[str, str]:
    environment = local_runs.ENVIRONMENT | {"TMPDIR": TEMPORARY, "HOME": TEMPORARY}
    for name in PASSED_ON:
        if name in os.environ:
            environment[name] = os.environ[name]
    if CREDENTIALS in os.environ:
        environment[CREDENTIALS] = os.path.abspath(os.environ[CREDENTIALS])
    return environment
