"""Push the images to a registry and record their digests."""

import json
import re
from dataclasses import dataclass
from typing import Literal

from pipeline.command_line import option
from pipeline.images import SOURCES, local_names, progress
from pipeline.paths import ROOT, VERSION
from trainer.common import storage
from trainer.common.errors import UserError

# HOST[:PORT]/PATH, in lower case, as Docker requires.
REGISTRY = re.compile(r"[a-zA-Z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*")


@dataclass(frozen=True)
class PushConfig:
    """Push the images to a registry, and record their digests for `compile`."""

    registry: str = option("", "Registry to push to: HOST/PROJECT/REPOSITORY.")
    images_file: str = option(str(ROOT / "docker" / "images.json"), "File to write the digests to.")
    variant: Literal["cpu", "gpu"] = option("cpu", "Variant of yt8m-trainer.")
    tag: str = option("", f"Tag of the images. Default: {VERSION}, or {VERSION}-gpu.")

    def __post_init__(self):
        if not REGISTRY.fullmatch(self.registry.rstrip("/")):
            raise UserError(
                "--registry must be HOST/PROJECT/REPOSITORY, without https://; got "
                f"{self.registry!r}."
            )


def push(config: PushConfig) -> dict[str, str]:
    """Push the images, print the progress and write their digests to a file.

    Returns:
        Image -> name by digest, e.g. "HOST/PROJECT/yt8m-data@sha256:...".

    Raises:
        UserError: No Docker engine answers, an image is not built, or a push fails.
    """
    from pipeline.local import engine

    client = engine.connect()
    names = local_names(config.variant, config.tag)
    found = {image: engine.find(client, name) for image, name in names.items()}
    for image, name in names.items():
        if found[image] is None:
            raise UserError(f"There is no image {name}. Build it with `make images`.")
    made_from = {image.labels.get(SOURCES) for image in found.values()}
    if len(made_from) > 1:
        raise UserError("The images are built from different code. Run `make images`.")

    pushed = {}
    for image, name in names.items():
        remote = f"{config.registry.rstrip('/')}/{name}"
        with progress(name) as show:
            digest = engine.push(client, name, remote, show)
        pushed[image] = f"{remote.rpartition(':')[0]}@{digest}"
        print(pushed[image], flush=True)
    record = {"variant": config.variant, "sources": made_from.pop(), "images": pushed}
    storage.write_text(config.images_file, json.dumps(record, indent=1) + "\n")
    return pushed
