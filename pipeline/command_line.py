"""Typer commands from dataclasses, and options that belong to one target.

Typer takes options from a function's signature. Here they are the fields of a dataclass, because
submit, schedule and doctor share two dozen, and other modules take them as one object.
"""

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import field, fields
from typing import Annotated

import typer
from pydantic import SecretStr
from typer.core import TyperCommand

from pipeline.redaction import register_credentials
from trainer.common.errors import UserError, without_traceback

# Value of --target -> the group of the options that only this target has.
TARGET_GROUPS = {"kubeflow": "Kubeflow", "vertex": "Vertex AI"}
HELP = ("--help", "-h")

# Arguments of a command, as --help shows them -> their help text.
ARGUMENTS = {
    "NAME=VALUE": "Parameters of the pipeline. `run --list-parameters` lists them.",
    "ACTION|NAME=VALUE": "set (the default) with parameters, or list, pause, resume, delete.",
}


def option(default, help: str, group: str = "Options", envvar: str | None = None):
    """A dataclass field that is an option of a command.

    Args:
        default: Value if the option is not given.
        help: Help text.
        group: Title above it in --help. Those in TARGET_GROUPS are for one target only.
        envvar: Environment variable that sets it too.
    """
    return field(default=default, metadata={"help": help, "group": group, "envvar": envvar})


class _Command(TyperCommand):
    """A command whose --help leaves out the options of the targets other than --target."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:
        # --help is last, so that --target counts wherever it stands.
        return super().parse_args(ctx, sorted(args, key=HELP.__contains__))


def add_command(
    app: typer.Typer, name: str, config_class, run: Callable, arguments: str | None = None
):
    """Add a command whose options are the fields of a dataclass.

    Args:
        app: The application to add it to.
        name: Name of the command.
        config_class: Dataclass of `option` fields; its docstring is the help text.
        run: Called with the config and, if the command takes arguments, the list of them. Returns
            the exit code if it is an int.
        arguments: A key of ARGUMENTS; None if the command takes only options.
    """

    def command(context: typer.Context, **values):
        given = [*values.pop("arguments", []), *values.pop("param", [])]
        for value in values.values():
            if isinstance(value, SecretStr):
                register_credentials(value.get_secret_value())
        with without_traceback():
            _check_target(context)
            config = config_class(**values)
            result = run(config, given) if arguments else run(config)
        return result if isinstance(result, int) else 0

    signature = [_parameter("context", typer.Context), *map(_option, fields(config_class))]
    if arguments:
        argument = typer.Argument(metavar=arguments, help=ARGUMENTS[arguments], show_default=False)
        text = "Parameter of the pipeline, the same as an argument."
        parameter = typer.Option("-p", "--param", metavar="NAME=VALUE", help=text)
        signature.append(_parameter("arguments", Annotated[list[str], argument], []))
        signature.append(_parameter("param", Annotated[list[str], parameter], []))
    command.__signature__ = inspect.Signature(signature)
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(config_class.__doc__))
    app.command(name, cls=_Command, help=text)(command)


def _option(field) -> inspect.Parameter:
    info = typer.Option(
        f"--{field.name.replace('_', '-')}",
        envvar=field.metadata["envvar"],
        help=field.metadata["help"],
        metavar="<str>" if SecretStr in (field.type, *typing.get_args(field.type)) else None,
        rich_help_panel=field.metadata["group"],
        show_default=bool(field.default),
        is_eager=field.name == "target",
        callback=_show_target if field.name == "target" else None,
        hidden=_applies_elsewhere(field.metadata["group"], "kubeflow"),  # until --target is read
    )
    return _parameter(field.name, Annotated[field.type, info], field.default)


def _parameter(name: str, annotation, default=inspect.Parameter.empty) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, annotation=annotation, default=default)


def _applies_elsewhere(group: str | None, target: str) -> bool:
    """Whether the options of a group apply to targets other than `target` only."""
    return group in TARGET_GROUPS.values() and group != TARGET_GROUPS[target]


def _show_target(context: typer.Context, target: str) -> str:
    """Show the options of a target in --help, and hide those of the others."""
    for parameter in context.command.params:
        parameter.hidden = _applies_elsewhere(parameter.rich_help_panel, target)
    return target


def _check_target(context: typer.Context):
    """Raise UserError if an option was given that --target ignores."""
    target = context.params.get("target")
    for parameter in context.command.params if target else ():
        given = context.get_parameter_source(parameter.name).name == "COMMANDLINE"
        if given and _applies_elsewhere(parameter.rich_help_panel, target):
            raise UserError(
                f"{parameter.opts[0]} is an option for {parameter.rich_help_panel}; got "
                f"--target={target}."
            )


def normalize(arguments: list[str]) -> list[str]:
    """Return the arguments with dashes in the names of options: --run_name means --run-name."""
    return [re.sub(r"^--\w[\w-]*", lambda m: m[0].replace("_", "-"), word) for word in arguments]


def message(error: typer.TyperException) -> str:
    """Return what a user got wrong on the command line, as complete sentences."""
    text = error.format_message().replace("Value error, ", "").strip()
    if text.startswith("No such option"):
        near = closest(error.option_name, error.possibilities or ())
        if not near:  # It may be a misplaced secret.
            return "No such option. Parameters of the pipeline are given as name=value. Try --help."
        text = f"There is no option {error.option_name}. Did you mean {near}?"
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} Try --help."


def closest(word: str, words: Iterable[str]) -> str:
    """Return the word most similar to a mistyped one, or "" if none is similar."""
    plain = {known.lstrip("-"): known for known in words}
    near = difflib.get_close_matches(word.lstrip("-"), plain, n=1, cutoff=0.7)
    return plain[near[0]] if near else ""
