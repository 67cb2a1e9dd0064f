"""Sends the images to a registry, and notes their digests: python -m pipeline push."""

import json
import re
import sys
from dataclasses import dataclass

from pipeline.images import SOURCES, VARIANTS, local_names, progress
from pipeline.paths import ROOT, VERSION
from trainer.common import storage
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback

# HOST[:PORT]/PATH, in small letters, as Docker has it.
REGISTRY = re.compile(r"[a-zA-Z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*")


@dataclass(frozen=True)
class PushConfig:
    """Sends yt8m-data and yt8m-trainer to a registry, and notes what `compile` is to call them."""

    registry: str = flag("", "What comes before the images' names: HOST/PROJECT/REPOSITORY.", "To")
    images_file: str = flag(
        str(ROOT / "docker" / "images.json"), "File to note the digests in.", "To"
    )
    variant: str = flag("cpu", "Which yt8m-trainer: cpu or gpu.", "What")
    tag: str = flag(
        "", f"What comes after the images' names. Empty: {VERSION}, for GPUs {VERSION}-gpu.", "What"
    )

    def __post_init__(self):
        if not REGISTRY.fullmatch(self.registry.rstrip("/")):
            raise UserError(
                "--registry must be given as HOST/PROJECT/REPOSITORY, without https://; got "
                f"{self.registry!r}."
            )
        if self.variant not in VARIANTS:
            raise UserError(f"--variant must be cpu or gpu; got {self.variant!r}.")


def push(config: PushConfig) -> dict[str, str]:
    """Sends the images, telling of it as it goes, and notes their digests.

    Returns:
        Image -> name by digest, e.g. "HOST/PROJECT/yt8m-data@sha256:...".

    Raises:
        UserError: no engine answers, an image was not built, or it cannot be sent.
    """
    from pipeline.local import engine

    client = engine.connect()
    names = local_names(config.variant, config.tag)
    found = {image: engine.find(client, name) for image, name in names.items()}
    for image, name in names.items():
        if found[image] is None:
            raise UserError(f"There is no image {name}: `make images` builds it.")
    made_from = {image.labels.get(SOURCES) for image in found.values()}
    if len(made_from) > 1:
        raise UserError("The images were made from different code: `make images` renews them.")

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


def main(argv: list[str]):
    """The command."""
    with without_traceback():
        push(parse(PushConfig, argv))


if __name__ == "__main__":
    main(["python -m pipeline.push", *sys.argv[1:]])
