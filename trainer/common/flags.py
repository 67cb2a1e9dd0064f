"""Flags that models, losses and optimizers declare, and checks of their values."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, make_dataclass

from trainer.common.command_line import flag


@dataclass(frozen=True)
class Flag:
    """A command-line flag; its type is that of `default`.

    Attributes:
        check: function from a value to what is expected of it instead, e.g. "must be at least 1";
            None if the value is valid.
    """

    name: str
    default: bool | int | float | str
    help: str
    check: Callable | None = None


def at_least_one(value):
    return None if value >= 1 else "must be at least 1"


def positive(value):
    return None if value > 0 else "must be positive"


def not_negative(value):
    return None if value >= 0 else "must not be negative"


def fraction(value):
    return None if 0 <= value < 1 else "must be in [0, 1)"


def seed(value):
    # NumPy's seeds have 32 bits; the trainer adds 1, see trainer/training/step.py.
    return None if 0 <= value < 2**32 - 1 else f"must be from 0 to {2**32 - 2}"


def one_of(names: Container[str]) -> Callable:
    """Check that a value is one of `names`, which may still grow."""
    return lambda value: None if value in names else f"must be one of {sorted(names)}"


def as_dataclass(name: str, groups: dict[str, Iterable[Flag]]) -> type:
    """Frozen dataclass with a field for each flag, for `command_line.parse`.

    Args:
        name: name of the class.
        groups: group in --help -> its flags. A flag that several entries share is one field.
    """
    fields = {
        each.name: (
            each.name,
            type(each.default),
            flag(each.default, each.help, group, each.check),
        )
        for group, flags in groups.items()
        for each in flags
    }
    return make_dataclass(name, fields.values(), frozen=True)
