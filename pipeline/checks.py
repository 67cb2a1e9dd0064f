"""Finds what a later step of the pipeline would refuse, before the first one starts."""

import shlex
from dataclasses import fields

from components.gate import GateConfig
from components.train import parse_accelerator_count
from trainer.common import command_line
from trainer.common.errors import UserError
from trainer.config import TrainConfig


def check(values: dict):
    """Checks a run's parameters against the settings of the steps they are for.

    Args:
        values: Name -> value; the parameters that are not given with their defaults.

    Raises:
        UserError: a minimum of the gate, a flag of the trainer or the number of accelerators is
            unknown or out of range.
    """
    minimums = {name: value for name, value in values.items() if name.startswith("min_")}
    GateConfig(metrics_file="comes later", **minimums)
    parse_accelerator_count(values.get("accelerator_count", "0"))
    try:
        further = shlex.split(values.get("trainer_flags", ""))
    except ValueError as error:
        raise UserError(f"trainer_flags: {error} in {values['trainer_flags']!r}.") from None
    flags = [field.name for field in fields(TrainConfig) if field.name in values]
    argv = [f"--{name}={values[name]}" for name in flags]
    command_line.parse(TrainConfig, ["trainer.train", *argv, *further])
