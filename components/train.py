"""The training step: the trainer, in a folder that belongs to its inputs."""

import hashlib
import json
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path

import trainer
from components.code_digest import code_digest
from trainer.common import storage
from trainer.common.command_line import parse
from trainer.common.errors import UserError
from trainer.config import TrainConfig
from trainer.data import manifest

FLAGS = {field.name: field for field in fields(TrainConfig)}
PLACES = ("train_data_pattern", "train_dir")  # set by the pipeline

# Flags of the trainer whose defaults in the pipeline differ from the trainer's and that are not
# parameters of it. Kubeflow's launcher does not pass on the signal that announces the loss of a
# node, so checkpoints are saved by time as well.
DEFAULT_FLAGS = ("--checkpoint_minutes=5",)


def trainer_config(parameters: dict) -> TrainConfig:
    """Return the trainer's flags that the pipeline's parameters ask for.

    Args:
        parameters: Name -> value of pipeline parameters. Those that are named like a flag of the
            trainer set it. "num_gpu", the number of accelerators that the step gets, is a string.
            "trainer_flags" holds further flags, as on the trainer's command line.

    Raises:
        UserError: A flag is unknown, or its value is out of range.
    """
    given = {name: value for name, value in parameters.items() if name in FLAGS}
    given |= _gpu_flags(given.pop("num_gpu", "0"))
    argv = [*DEFAULT_FLAGS, *(f"--{name}={value}" for name, value in given.items())]
    text = parameters.get("trainer_flags", "")
    try:
        argv += shlex.split(text)
    except ValueError as error:
        raise UserError(f"trainer_flags: {error} in {text!r}.") from None
    config = parse(TrainConfig, ["trainer.train", *argv])
    return replace(config, **{name: FLAGS[name].default for name in PLACES})


def command_line(config: TrainConfig) -> list[str]:
    """Return the flags that differ from their defaults, as on the trainer's command line."""
    return [
        f"--{name}={getattr(config, name)}"
        for name, flag in FLAGS.items()
        if getattr(config, name) != flag.default
    ]


def check_num_workers(num_workers: int, train_data: str = ""):
    """Check that the number of workers is possible.

    Args:
        num_workers: Number of workers.
        train_data: Glob(s) of the training shards, if they are to be looked at.

    Raises:
        UserError: There is no worker, or one without a training file, because each reads its own.
    """
    if num_workers < 1:
        raise UserError(f"num_workers must be at least 1; got {num_workers}.")
    if num_workers == 1 or not train_data:
        return
    num_files = len(manifest.expand(train_data))
    if num_files < num_workers:
        raise UserError(
            f"num_workers must not exceed the number of training files; got {num_workers} workers "
            f"and {num_files} files in {train_data}."
        )


def train_folder(
    config: TrainConfig,
    output_dir: str,
    data_key: str,
    run_id: str = "",
    num_workers: int = 1,
    libraries: str = "",
) -> str:
    """Return the trainer's folder, output_dir/train/KEY.

    The key is made of everything that decides the weights: the data, the flags, the trainer's code
    and the versions of the libraries. A step that was killed therefore resumes when it is retried,
    in the same run or in another one, and nothing is trained twice.

    Args:
        config: The trainer's flags.
        output_dir: The folder that keeps what runs produce.
        data_key: Identifies the content and order of the training data: `Manifest.content_key`.
        run_id: If given, the key is made of it too, so that the run trains a new model.
        num_workers: Number of workers, each with a batch of its own.
        libraries: Identifies the versions of the libraries that the trainer's images contain.
    """
    code = code_digest(Path(trainer.__file__).parent)
    parts = [asdict(config), data_key, run_id, num_workers, libraries, code]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    return storage.join(output_dir, "train", digest.hexdigest()[:16])


def _gpu_flags(count: str) -> dict:
    num_gpus = parse_accelerator_count(count)
    return {"num_gpu": num_gpus, "require_gpu": num_gpus > 0}


def parse_accelerator_count(count: str) -> int:
    """Return the number of accelerators that the pipeline parameter `accelerator_count` requests.

    The parameter is a string because Kubeflow's driver ignores an accelerator count of any other
    type and then schedules the pod without an accelerator.

    Raises:
        UserError: `count` is not a whole number of 0 or more.
    """
    if not (count.isascii() and count.isdecimal()):
        raise UserError(f"accelerator_count must be a whole number, 0 or more; got {count!r}.")
    return int(count)


def train(train_data: str, train_dir: str, argv: list[str]):
    """Train a model, or resume the training that the same inputs began.

    Args:
        train_data: Manifest or glob(s) of the training shards.
        train_dir: The trainer's folder.
        argv: The trainer's other flags, as returned by `command_line`.

    Raises:
        UserError: A flag, a file or a record is not as it must be.
    """
    argv = [*argv, f"--train_data_pattern={train_data}", f"--train_dir={train_dir}"]
    config = parse(TrainConfig, ["trainer.train", *argv])
    from trainer.training import loop  # loads TensorFlow

    loop.train(config)
