"""The Docker engine: what is asked of it. No other module imports docker."""

import codecs
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
from docker.auth import resolve_repository_name
from docker.errors import APIError, BuildError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount
from docker.utils.build import exclude_paths

from trainer.common.errors import UserError

REQUEST_SECONDS = 600  # the engine may be busy with another image
GRACE_SECONDS = 30  # for what runs in a container to save its work

Show = Callable[[dict], None]


def connect() -> docker.DockerClient:
    """The engine that DOCKER_HOST names, or this machine's.

    Raises:
        UserError: none answers.
    """
    try:
        client = docker.from_env(timeout=REQUEST_SECONDS)
        client.ping()
    except DockerException as error:
        address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        raise UserError(
            f"No Docker engine answers at {address}: {error}\n  Start one, or name another in "
            "DOCKER_HOST (the contexts of the docker command are not read)."
        ) from None
    return client


def context_files(root: Path) -> list[str]:
    """What `root`'s .dockerignore leaves of it: paths below it, sorted."""
    patterns = (root / ".dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if line.strip() and not line.startswith("#")]
    paths = exclude_paths(str(root), patterns)
    return sorted(path for path in paths if (root / path).is_file())


def build(
    client: docker.DockerClient,
    root: Path,
    dockerfile: str,
    tag: str,
    arguments: dict[str, str],
    labels: dict[str, str],
    show: Show,
):
    """Builds an image.

    Args:
        root: The folder whose files the recipe may take.
        dockerfile: The recipe, below root.
        tag: What to call the image.
        arguments: Name -> value of the recipe's ARGs.
        labels: Name -> value of the image's labels.
        show: Gets what the engine tells as it goes, e.g. {"stream": "Step 1/9 : ..."}.

    Raises:
        UserError: it cannot be built.
    """
    try:
        events = client.api.build(
            path=str(root),
            dockerfile=dockerfile,
            tag=tag,
            buildargs=arguments,
            labels=labels,
            rm=True,
            forcerm=True,
            decode=True,
        )
        _follow(events, show)
    except (APIError, BuildError) as error:
        raise UserError(f"{tag} cannot be built: {error}") from None


def push(client: docker.DockerClient, tag: str, name: str, show: Show) -> str:
    """Sends the image `tag` to a registry, where it is called `name`; returns its digest there.

    Raises:
        UserError: it cannot be sent.
    """
    repository, _, version = name.rpartition(":")
    digest = ""

    def note(event: dict):
        nonlocal digest
        digest = event.get("aux", {}).get("Digest", digest)
        show(event)

    try:
        client.images.get(tag).tag(repository, version)
        _follow(client.api.push(repository, version, stream=True, decode=True), note)
    except APIError as error:
        raise UserError(f"{name} cannot be pushed: {error}") from None
    if not digest:
        raise UserError(f"The registry did not tell the digest of {name}.")
    return digest


def _follow(events: Iterator[dict], show: Show):
    """Shows what the engine tells. It tells of an error in the midst of it."""
    for event in events:
        if "error" in event:
            raise APIError(event["error"].strip())
        show(event)


@dataclass(frozen=True)
class Image:
    """An image that the engine has."""

    id: str
    size: int  # bytes
    labels: dict[str, str]


def find(client: docker.DockerClient, name: str) -> Image | None:
    """An image by its name; None: the engine does not have it."""
    try:
        attributes = client.images.get(name).attrs
    except ImageNotFound:
        return None
    labels = (attributes.get("Config") or {}).get("Labels") or {}
    return Image(attributes["Id"], attributes["Size"], labels)


def check_name(image: str):
    """Raise UserError if an image's name does not start with a registry."""
    host, _ = resolve_repository_name(image)
    if not image.startswith(f"{host}/"):
        raise UserError(
            f"{image} names no registry to pull it from: make push REGISTRY=HOST/PROJECT/"
            "REPOSITORY, then make compile (or load the image onto every node)."
        )


def check_pullable(client: docker.DockerClient, image: str):
    """Ask the registry of an image for it, with the credentials of `docker login`.

    Raises:
        UserError: The registry cannot be reached, denies access, or does not have the image.
    """
    host, _ = resolve_repository_name(image)
    try:
        client.images.get_registry_data(image)
    except APIError as error:
        if error.status_code in (401, 403):
            raise UserError(f"{host} denies access to {image}: docker login {host}") from None
        if error.status_code == 404:
            raise UserError(f"{host} has no image {image}: `make push` pushes it.") from None
        raise UserError(f"{host} cannot be asked for {image}: {error.explanation}") from None


def maps_users(client: docker.DockerClient) -> bool:
    """Whether root in a container is, outside, the user that the engine runs for."""
    return any(
        option.split(",")[0] == "name=rootless" for option in client.info()["SecurityOptions"] or []
    )


def mount(source: str, target: str, read_only: bool = False) -> Mount:
    """A file or folder of the engine's machine, seen at `target` in a container."""
    return Mount(target, source, type="bind", read_only=read_only)


def gpus(count: int) -> list[DeviceRequest]:
    """A request for so many GPUs."""
    return [DeviceRequest(count=count, capabilities=[["gpu"]])] if count else []


@dataclass
class Running:
    """A container at work.

    Attributes:
        stdout: Lines that it prints, stderr's among them.
        returncode: Its exit code, once it has ended.
    """

    container: Container
    stdout: Iterator[str] = field(repr=False)
    returncode: int | None = None


@contextlib.contextmanager
def container(
    client: docker.DockerClient, image: str, command: list[str], **settings
) -> Iterator[Running]:
    """A running container; ended and removed if the body does not see its end.

    The container is kept until its exit code has been read, and what it printed. One that the
    engine removes by itself may be gone by then, and its exit code with it.

    Args:
        settings: What docker's containers.create takes.

    Raises:
        UserError: the engine cannot start it.
    """
    try:
        created = client.containers.create(
            image,
            command,
            # Whatever the engine's own setting is: not all of its kinds of logs can be read.
            log_config=LogConfig(type=LogConfig.types.JSON),
            **settings,
        )
    except DockerException as error:
        raise UserError(f"No container of {image} can be made: {error}") from None
    try:
        try:
            created.start()
        except APIError as error:
            raise UserError(f"A container of {image} cannot be started: {error}") from None
        running = Running(created, lines(created.logs(stream=True, follow=True)))
        try:
            yield running
            running.returncode = created.wait(timeout=None)["StatusCode"]
        except BaseException:
            _stop(created)
            raise
    finally:
        # It may be gone already, and what ended the command counts more than what it leaves.
        with contextlib.suppress(APIError):
            created.remove(force=True, v=True)


def _stop(container: Container):
    """Asks all that runs in a container to end, and gives it time for that."""
    # What cannot be asked has ended meanwhile; whatever else it is, it is removed by force next.
    with contextlib.suppress(APIError):
        # The first process, which may be a shell that does not pass it on; and all others.
        container.kill("TERM")
        container.exec_run(["sh", "-c", "kill -TERM -1"], user="0")
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end:
            container.reload()
            if container.status != "running":
                return
            time.sleep(0.1)


def lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines of text, from bytes that are cut anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = ""
    for chunk in chunks:
        *whole, text = (text + decoder.decode(chunk)).split("\n")
        yield from whole
    text += decoder.decode(b"", final=True)
    if text:
        yield text
