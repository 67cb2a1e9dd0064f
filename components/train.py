"""The training step: the trainer, in a folder that belongs to its inputs."""

import hashlib
import json
import shlex
from pathlib import Path

import trainer
from trainer.common import storage
from trainer.common.command_line import parse
from trainer.common.errors import UserError
from trainer.config import TrainConfig


def train(
    train_data: str, output_dir: str, data_fingerprint: str, flags: dict, trainer_flags: str = ""
) -> str:
    """Trains a model, or goes on with the training that the same inputs began.

    Args:
        train_data: glob(s) of the training shards.
        output_dir: the folder that keeps what runs make.
        data_fingerprint: identifies the content of the data, as validate_data returns it.
        flags: the trainer's flags, name -> value.
        trainer_flags: further flags, as on the trainer's command line.

    Returns:
        The trainer's folder, output_dir/train/KEY. The key is made of the data, the flags and the
        trainer's code: what decides the weights. So a step that was killed goes on when it is
        tried again, in the same run or in another one, and nothing is trained twice.

    Raises:
        UserError: a flag, a file or a record is not as it must be.
    """
    argv = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    try:
        argv += shlex.split(trainer_flags)
    except ValueError as error:
        raise UserError(f"trainer_flags: {error} in {trainer_flags!r}.") from None
    key = _key(argv, data_fingerprint)
    train_dir = storage.join(output_dir, "train", key)
    argv += [f"--train_data_pattern={train_data}", f"--train_dir={train_dir}"]
    config = parse(TrainConfig, ["components/train.py", *argv])
    from trainer.training import loop

    loop.train(config)
    return train_dir


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


def _key(argv: list[str], data_fingerprint: str) -> str:
    """Identifies what decides the weights, in 16 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps([argv, data_fingerprint]).encode())
    for source in sorted(Path(trainer.__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
