"""Flags from a dataclass: one line a flag, holding its name, type, default, group and meaning."""

import dataclasses
import pathlib
import sys
import textwrap
import typing

from absl import flags

from trainer.common.errors import UserError

TYPE_NAMES = {str: "TEXT", int: "INTEGER", float: "NUMBER"}
# What Python says of a value of the wrong type, and what a user is told.
PLAIN_WORDS = {
    "invalid literal for int() with base 10: ": "expected an integer, got ",
    "could not convert string to float: ": "expected a number, got ",
}


def flag(default, help: str, group: str, check=None):
    """A dataclass field that is a flag too; `check` is as in `flags.Flag`."""
    metadata = {"help": help, "group": group, "check": check}
    return dataclasses.field(default=default, metadata=metadata)


def parse(config_class, argv: list[str]):
    """An instance of `config_class`, a dataclass of `flag` fields, from a command line.

    Takes everything absl does: --x=1, --x 1, --boolean, --noboolean, --boolean=true, and
    --flagfile=FILE with a flag a line. --help prints the flags and ends the process.

    Raises:
        UserError: an unknown flag, a value of the wrong type, or an argument that is no flag.
    """
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        print(help_text(config_class, _program(argv)))
        sys.exit(0)
    values = _flag_values(config_class)
    try:
        rest = values([_program(argv), *argv[1:]])[1:]
    except flags.Error as error:
        raise UserError(f"{_sentence(error)} Try --help.") from None
    except OSError as error:
        raise UserError(f"--flagfile cannot be read: {error}.") from None
    if rest:
        raise UserError(f"Every argument must be a --flag; got {rest[0]!r}. Try --help.")
    return config_class(
        **{field.name: values[field.name].value for field in dataclasses.fields(config_class)}
    )


def _sentence(error: flags.Error) -> str:
    """What absl says, in plain words, with its last mark where it belongs."""
    text = str(error).replace(" ?", "?")
    for words, plain in PLAIN_WORDS.items():
        text = text.replace(words, plain)
    return text if text.endswith((".", "?")) else f"{text}."


def _program(argv: list[str]) -> str:
    """How the program is called, from the path of its file: python -m trainer.train."""
    path = pathlib.Path(argv[0])
    if path.suffix != ".py":
        return argv[0]
    return f"python -m {path.parent.name}.{path.stem}"


def _flag_values(config_class) -> flags.FlagValues:
    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
    }
    values = flags.FlagValues()
    flags.DEFINE_string("flagfile", None, "Read flags from this file.", flag_values=values)
    for field in dataclasses.fields(config_class):
        define[_type(field)](field.name, field.default, field.metadata["help"], flag_values=values)
    return values


def _type(field) -> type:
    """The field's type; of `int | None` the int."""
    return next((t for t in typing.get_args(field.type) if t is not type(None)), field.type)


def help_text(config_class, program: str) -> str:
    """What --help prints: the docstring's first line, then the flags by group."""
    lines = [f"usage: {program} [--flag=value ...] [--flagfile=FILE]"]
    lines += ["", config_class.__doc__.splitlines()[0]]
    fields = dataclasses.fields(config_class)
    for group in dict.fromkeys(field.metadata["group"] for field in fields):
        lines += ["", f"{group}:"]
        for field in fields:
            if field.metadata["group"] == group:
                lines += _flag_help(field)
    return "\n".join(lines)


def _flag_help(field) -> list[str]:
    if _type(field) is bool:
        head = f"  --[no]{field.name}"
    else:
        head = f"  --{field.name}={TYPE_NAMES[_type(field)]}"
    default = "none" if field.default in (None, "") else field.default
    body = f"{field.metadata['help']} (default: {default})"
    return [head, *textwrap.wrap(body, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)]
