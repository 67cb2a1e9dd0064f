"""Build the images that the steps and the model server run in."""

import contextlib
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.command_line import option
from pipeline.paths import ROOT, VERSION
from trainer.common.errors import UserError

# Image, as in docker/IMAGE.Dockerfile -> its name.
NAMES = {"data": "yt8m-data", "trainer": "yt8m-trainer", "serving": "yt8m-serving"}
SOURCES = "yt8m.sources"  # label of an image: the digest of its code


@dataclass(frozen=True)
class ImagesConfig:
    """Build the images yt8m-data, yt8m-trainer and yt8m-serving."""

    variant: Literal["cpu", "gpu"] = option(
        "cpu", "Build yt8m-trainer for CPUs, or for GPUs with CUDA."
    )
    tag: str = option("", f"Tag of the images. Default: {VERSION}, or {VERSION}-gpu.")
    base_image: str = option(
        "", "Image with Python 3.11 and pip. Default: that of docker/*.Dockerfile."
    )


def local_names(variant: str = "cpu", tag: str = "") -> dict[str, str]:
    """Return image -> name with tag."""
    tag = tag or (VERSION if variant == "cpu" else f"{VERSION}-{variant}")
    return {image: f"{name}:{tag}" for image, name in NAMES.items()}


def sources() -> str:
    """Return a digest of all files in the images, and of their Dockerfiles."""
    from pipeline.local import engine

    digest = hashlib.sha256()
    dockerfiles = [f"docker/{image}.Dockerfile" for image in NAMES]
    for path in [*dockerfiles, *engine.context_files(ROOT)]:
        content = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        digest.update(f"{path} {content}\n".encode())
    return digest.hexdigest()


def warn_if_outdated(made_from: str | None, images: str, remedy: str):
    """Warn if images are not built from the current code.

    Args:
        made_from: Digest of the code in the images, from `sources`.
        images: Names to show.
        remedy: Make target that updates them.
    """
    if made_from != sources():
        print(
            f"warning: {images}: not built from the current code; run `make {remedy}`.",
            file=sys.stderr,
        )


def build(config: ImagesConfig) -> dict[str, str]:
    """Build the images and print the progress.

    Returns:
        Image -> name.

    Raises:
        UserError: No Docker engine answers, or a build fails.
    """
    from pipeline.local import engine

    client = engine.connect()
    base = {"BASE_IMAGE": config.base_image} if config.base_image else {}
    labels = {SOURCES: sources()}
    names = local_names(config.variant, config.tag)
    for image, name in names.items():
        start = time.monotonic()
        dockerfile = f"docker/{image}.Dockerfile"
        arguments = base | ({"VARIANT": config.variant} if image == "trainer" else {})
        with progress(name) as show:
            engine.build(client, ROOT, dockerfile, name, arguments, labels, show)
        size = engine.find(client, name).size / 1e6
        print(f"{name:<28}{size:>6.0f} MB  in {time.monotonic() - start:.0f} s", flush=True)
    return names


@contextlib.contextmanager
def progress(name: str) -> Iterator:
    """Yield a function that shows the engine's build, push and pull events of an image.

    Build steps are printed. On a terminal, a status line shows the other events. If the body raises
    a UserError, the last 50 lines of the build are printed.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    lines, transfers = [], {}

    def show(event: dict):
        for line in event.get("stream", "").splitlines():
            lines.append(line)
            if line.startswith("Step "):
                console.print(
                    Text(f"{name}  {' '.join(line.split())}"), overflow="ellipsis", no_wrap=True
                )
            elif line.strip():
                status.update(Text(f"{name}  {line.strip()}"[: console.width - 4]))
        detail = event.get("progressDetail")
        if detail and "current" in detail:
            transfers[event.get("id")] = detail["current"], detail.get("total") or detail["current"]
            done, total = (sum(sizes) / 1e6 for sizes in zip(*transfers.values(), strict=True))
            status.update(Text(f"{name}  {event['status']} {done:.0f} of {total:.0f} MB"))

    with console.status(Text(name)) as status:
        try:
            yield show
        except UserError:
            console.print(Text("\n".join(lines[-50:])))
            raise
