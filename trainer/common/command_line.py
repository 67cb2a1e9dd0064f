"""Command lines from a dataclass: each field is a flag with a type, default, group and help text.

absl parses them. `absl.app` is not used, because its flags are global and a mistake prints the
whole help text.
"""

import dataclasses
import os
import pathlib
import sys
import textwrap
import typing

from absl import flags

from trainer.common.errors import UserError

TYPE_NAMES = {str: "TEXT", int: "INTEGER", float: "NUMBER"}
HELP = ("--help", "-help", "-h", "--helpshort", "-helpshort")
HELP_FULL = ("--helpfull", "-helpfull")

# Python's message for a value of the wrong type, and the one to show instead.
PLAIN_WORDS = {
    "invalid literal for int() with base 10: ": "expected an integer, got ",
    "could not convert string to float: ": "expected a number, got ",
}


def flag(default, help: str, group: str, check=None):
    """A dataclass field that is a flag too; `check` is as in `flags.Flag`."""
    metadata = {"help": help, "group": group, "check": check}
    return dataclasses.field(default=default, metadata=metadata)


def parse(config_class, argv: list[str]):
    """Parse a command line into an instance of `config_class`, a dataclass of `flag` fields.

    All of absl's syntax is accepted: --x=1, --x 1, --boolean, --noboolean, --boolean=true, and
    --flagfile=FILE with one flag per line. --help and --helpfull print the flags and exit.

    Raises:
        UserError: an unknown flag, a value of the wrong type, or an argument that is not a flag.
    """
    if any(argument in HELP_FULL for argument in argv[1:]):
        _print_and_exit(full_help_text(config_class, _program(argv)))
    if any(argument in HELP for argument in argv[1:]):
        _print_and_exit(help_text(config_class, _program(argv)))
    values = _flag_values(config_class)
    try:
        rest = values([_program(argv), *argv[1:]])[1:]
    except flags.Error as error:
        raise UserError(f"{_sentence(error)} Try --help.") from None
    except OSError as error:
        raise UserError(f"Cannot read --flagfile: {error}.") from None
    if rest:
        raise UserError(f"Every argument must be a --flag; got {rest[0]!r}. Try --help.")
    return config_class(
        **{field.name: values[field.name].value for field in dataclasses.fields(config_class)}
    )


def _print_and_exit(text: str):
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, e.g. `head`, has closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes on exit
    sys.exit(0)


def _sentence(error: flags.Error) -> str:
    """Return absl's message in plain words and as complete sentences."""
    text = str(error).replace(" ?", "?")
    for words, plain in PLAIN_WORDS.items():
        text = text.replace(words, plain)
    return text if text.endswith((".", "?")) else f"{text}."


def _program(argv: list[str]) -> str:
    """Return the command that runs a program, e.g. "python -m trainer.train"."""
    path = pathlib.Path(argv[0]).absolute().with_suffix("")
    root = pathlib.Path(__file__).absolute().parents[2]
    if not path.is_relative_to(root / "trainer"):
        return argv[0]
    return "python -m " + ".".join(path.relative_to(root).parts).removesuffix(".__main__")


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
    """Return the type of a field; int for `int | None`."""
    return next((t for t in typing.get_args(field.type) if t is not type(None)), field.type)


def help_text(config_class, program: str) -> str:
    """Return the text of --help: the first line of the docstring, then the flags by group."""
    lines = _usage(config_class, program)
    fields = dataclasses.fields(config_class)
    for group in dict.fromkeys(field.metadata["group"] for field in fields):
        lines += ["", f"{group}:"]
        for field in fields:
            if field.metadata["group"] == group:
                lines += _flag_help(field)
    return "\n".join(lines)


def full_help_text(config_class, program: str) -> str:
    """Return the text of --helpfull: all flags, as absl prints them."""
    values = _flag_values(config_class)
    del values.flagfile  # absl lists its own
    flags.DEFINE_bool("help", False, "Print the flags by topic and exit.", flag_values=values)
    flags.DEFINE_bool("helpfull", False, "Print all flags and exit.", flag_values=values)
    # absl lists flags by the module that defines them: for all of these, this one.
    listed = values.get_help().replace(f"{__name__}:", f"{program.removeprefix('python -m ')}:")
    return "\n".join(_usage(config_class, program)) + "\n" + listed


def _usage(config_class, program: str) -> list[str]:
    first_line = config_class.__doc__.splitlines()[0]
    return [f"usage: {program} [--flag=value ...] [--flagfile=FILE]", "", first_line]


def _flag_help(field) -> list[str]:
    if _type(field) is bool:
        head = f"  --[no]{field.name}"
    else:
        head = f"  --{field.name}={TYPE_NAMES[_type(field)]}"
    default = "none" if field.default in (None, "") else field.default
    body = f"{field.metadata['help']} (default: {default})"
    return [head, *textwrap.wrap(body, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)]
