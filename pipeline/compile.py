"""Compiles the pipeline, for Kubeflow and for Vertex AI: python -m pipeline compile."""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.paths import BUILD, ROOT, VERSION
from pipeline.profiles import profile as profiles
from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class CompileConfig:
    """Writes pipeline.yaml, for Kubeflow, and pipeline.vertex.yaml, for Vertex AI."""

    output_dir: str = flag(str(BUILD), "Local folder to write them to.", "Files")
    profile: str = flag(
        "cpu",
        f"What the steps ask of the cluster: {', '.join(profiles.names())}, or a file like those "
        "in pipeline/profiles/. Most of it can be told otherwise when a run starts.",
        "Cluster",
    )
    registry: str = flag(
        "", "What comes before the images' names: HOST/PROJECT/REPOSITORY.", "Images"
    )
    tag: str = flag(VERSION, "What comes after them.", "Images")
    images_file: str = flag(
        str(ROOT / "docker" / "images.json"),
        "Where `python -m pipeline push` wrote the digests of the images. If there is such a file, "
        "and neither --registry nor --tag, it names them.",
        "Images",
    )


def compile_pipeline(
    config: CompileConfig, images: dict[str, str] | None = None
) -> dict[str, Path]:
    """Writes the compiled pipelines; the same config and images give the same bytes.

    Args:
        config: Where to, and where the images are.
        images: Image ("data", "trainer") -> name, in place of what config says.

    Returns:
        Target ("kubeflow", "vertex") -> file.

    Raises:
        UserError: the folder cannot be written to, or the profile is none.
    """
    # Here, so that --help and mistakes answer at once.
    from kfp.compiler import Compiler

    from pipeline.graphs import train as graph

    profile = profiles.read(config.profile)
    images = graph.Images(**(images or _images(config)))
    folder = Path(config.output_dir).absolute()
    files = {"kubeflow": folder / "pipeline.yaml", "vertex": folder / "pipeline.vertex.client.yaml"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".compile-", dir=folder) as temporary:
            for target, file in files.items():
                unfinished = Path(temporary) / file.name
                pipeline = graph.build(images, graph.TARGETS[target], profile)
                Compiler().compile(pipeline, str(unfinished))
                unfinished.replace(file)
    except OSError as error:
        raise UserError(f"Cannot write the compiled pipeline to {folder}: {error}.") from None
    return files


def _images(config: CompileConfig) -> dict[str, str]:
    from pipeline.images import NAMES, warn_if_outdated

    prefix = config.registry.rstrip("/") + "/" if config.registry else ""
    pushed = Path(config.images_file)
    if prefix or config.tag != VERSION or not pushed.exists():
        return {image: f"{prefix}{name}:{config.tag}" for image, name in NAMES.items()}
    try:
        record = json.loads(pushed.read_text())
        images = {image: record["images"][image] for image in NAMES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected what `python -m pipeline push` writes in {pushed}; it cannot be read: "
            f"{error!r}."
        ) from None
    warn_if_outdated(record.get("sources"), f"The images in {pushed}", "push")
    return images


def main(argv: list[str]):
    """The command."""
    with without_traceback():
        files = compile_pipeline(parse(CompileConfig, argv))
        for target, file in files.items():
            print(f"{target + ':':<10}{file}")


if __name__ == "__main__":
    main(["python -m pipeline.compile", *sys.argv[1:]])
