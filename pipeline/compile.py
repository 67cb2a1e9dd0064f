"""Compile the pipeline for Kubeflow and for Vertex AI."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.command_line import option
from pipeline.paths import BUILD, COMPILED, ROOT, VERSION, compiled_files
from pipeline.profiles import profile as profiles
from trainer.common.errors import UserError


@dataclass(frozen=True)
class CompileConfig:
    """Compile the pipelines, train and predict, for Kubeflow and for Vertex AI.

    Writes pipeline.yaml and pipeline.vertex.yaml of the training pipeline, and predict.yaml and
    predict.vertex.yaml of batch prediction.
    """

    output_dir: str = option(str(BUILD), "Local folder to write the files to.")
    profile: str = option(
        "cpu",
        f"Resources of the steps: {', '.join(profiles.names())}, or a TOML file like those in "
        "pipeline/profiles/. A run can override most of them with parameters.",
    )
    registry: str = option("", "Registry of the images: HOST/PROJECT/REPOSITORY.")
    tag: str = option(VERSION, "Tag of the images.")
    images_file: str = option(
        str(ROOT / "docker" / "images.json"),
        "File with the images' digests, written by `push`. Used if it exists and neither "
        "--registry nor --tag is given.",
    )


def compile_pipeline(
    config: CompileConfig, images: dict[str, str] | None = None, pipeline: str = "train"
) -> dict[str, Path]:
    """Write the compiled pipelines. The same config and images give the same bytes.

    Args:
        config: Options of `compile`.
        images: Image ("data", "trainer") -> name. Default: the names that `config` gives.

    Returns:
        Target ("kubeflow", "vertex") -> file.

    Raises:
        UserError: The folder is not writable, or the profile is invalid.
    """
    # kfp is loaded here, so that --help is fast.
    from kfp.compiler import Compiler

    from pipeline import graphs
    from pipeline.graphs.common import TARGETS, Images

    profile = profiles.read(config.profile)
    names = images or _images(config)
    images = Images(names["data"], names["trainer"])
    folder = Path(config.output_dir).absolute()
    files = compiled_files(folder, pipeline)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".compile-", dir=folder) as temporary:
            for target, file in files.items():
                unfinished = Path(temporary) / file.name
                built = graphs.load(pipeline).build(images, TARGETS[target], profile)
                Compiler().compile(built, str(unfinished))
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
        images = {image: record["images"][image] for image in ("data", "trainer")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{pushed} must be a file written by `python -m pipeline push`; it cannot be read: "
            f"{error!r}."
        ) from None
    warn_if_outdated(record.get("sources"), f"The images in {pushed}", "push")
    return images


def compile_command(config: CompileConfig):
    """Compile the pipelines and print the files' paths."""
    from pipeline.graphs.common import Images

    names = _images(config)
    images = Images(names["data"], names["trainer"])
    if not images.are_pinned:
        print(
            f"Training is not cached, because {images.trainer} is not named by its digest, so that "
            "its code may change. `make push` records the digests."
        )
    for pipeline in COMPILED:
        for target, file in compile_pipeline(config, pipeline=pipeline).items():
            print(f"{pipeline:<8} {target + ':':<10}{file}")
