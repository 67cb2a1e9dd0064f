"""Run a compiled pipeline on this machine with kfp's local runner, each step in a container.

kfp's function that runs a container is replaced, because it reports success if the container is
removed before its exit code is read, runs steps as root, and mounts only the steps' artifacts.
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
TEMPORARY = "/yt8m-tmp"  # not /tmp, which may hold data
# Folders that an image needs: no data may be mounted there.
RESERVED = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/venv", "/opt/yt8m", "/proc", "/sys")
RESERVED += ("/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/local/lib")
# The user's environment variables that the steps get too.
PASSED_ON = (
    "GOOGLE_CLOUD_PROJECT",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "TF_CPP_MIN_LOG_LEVEL",
)
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"


def run(pipeline: Path, arguments: dict, scratch: Path, job_id: str):
    """Run a compiled pipeline in its images and print the steps' output.

    A step runs as the current user on a read-only file system. The files in `arguments` are
    mounted read-only at their own paths, output_dir is mounted writable.

    Args:
        pipeline: File that is compiled for Kubeflow.
        arguments: Parameter -> value; paths are absolute.
        scratch: Folder for a temporary folder with the steps' artifacts.
        job_id: The unique id of the run.

    Raises:
        StepFailed: A step failed. The summary step has run nevertheless.
        UserError: There is no Docker engine, an image is missing, or a folder cannot be mounted.
    """
    docker_client = engine.connect()
    _check_images(docker_client, pipeline)
    files = _mounts(arguments)
    base_environment = _environment()
    requested_gpus = parse_accelerator_count(arguments.get("accelerator_count", "0"))
    settings = {
        "user": "0:0" if engine.maps_users(docker_client) else f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {TEMPORARY: "mode=1777"},
        "shm_size": SHARED_MEMORY,
        "security_opt": ["label=disable"],  # SELinux would deny access to the mounts
    }

    # Not with kfp's client, which times out if the engine is busy for a minute.
    def start(client, image, command, volumes, environment=None):
        name = local_runs.step_name(command)
        artifacts = [engine.mount(source, to["bind"]) for source, to in volumes.items()]
        num_gpus = requested_gpus if name == "train" else 0
        return name, engine.container(
            docker_client,
            image,
            command,
            mounts=[*artifacts, *files],
            environment=base_environment | (environment or {}),
            device_requests=engine.gpus(num_gpus),
            **settings,
        )

    with local_runs.scratch_folder(scratch) as folder:
        for name in ("root", "workspace"):
            (folder / name).mkdir()  # The engine would create it as root.
        replaced = (docker_task_handler, "run_docker_container")
        runner = local.DockerRunner()
        local_runs.run_steps(pipeline, arguments, folder, runner, replaced, start, job_id)


def _check_images(client, pipeline: Path):
    """Raise UserError if an image is missing; warn if one is built from other code."""
    spec = next(yaml.safe_load_all(pipeline.read_text()))
    executors = spec["deploymentSpec"]["executors"].values()
    for name in sorted({executor["container"]["image"] for executor in executors}):
        image = engine.find(client, name)
        if image is None:
            raise UserError(f"There is no image {name}. Build it with `make images`.")
        warn_if_outdated(image.labels.get(SOURCES), name, "images")


def _mounts(arguments: dict) -> list:
    """Return the mounts of the files in the arguments, read-only, and of output_dir."""
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
        Path(output).mkdir(parents=True, exist_ok=True)  # The engine would create it as root.
        mounts = [mount for mount in mounts if mount["Target"] != output]
        mounts.append(engine.mount(os.path.realpath(output), output))
    for mount in mounts:
        _check_target(mount["Target"])
    return mounts


def _folders(pattern: str) -> dict[str, str]:
    """Return path in the container -> path on this machine of the folders of a pattern's files.

    Folders, because a pattern may match thousands of files. Those of symbolic links' targets are
    included.
    """
    folders = {}
    for file in storage.glob(pattern):
        real = os.path.realpath(file)
        folders[os.path.dirname(file)] = os.path.realpath(os.path.dirname(file))
        folders.setdefault(os.path.dirname(real), os.path.dirname(real))
    return folders


def _check_target(folder: str):
    for needed in RESERVED:
        if os.path.commonpath([folder, needed]) == folder:
            raise UserError(
                f"Files in {folder} cannot be mounted in a container, which has its own files "
                "there. Move them to another folder."
            )


def _environment() -> dict[str, str]:
    environment = local_runs.ENVIRONMENT | {"TMPDIR": TEMPORARY, "HOME": TEMPORARY}
    for name in PASSED_ON:
        if name in os.environ:
            environment[name] = os.environ[name]
    if CREDENTIALS in os.environ:
        environment[CREDENTIALS] = os.path.abspath(os.environ[CREDENTIALS])
    return environment
