"""The pipeline's parameters: read from the pipeline itself, shown, and taken from name=value."""

import difflib
import math
import textwrap
from dataclasses import dataclass

from trainer.errors import UserError

# kfp's names of the types that our parameters have.
TYPES = {"String": str, "Integer": int, "Float": float, "Boolean": bool}
EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of the pipeline."""

    name: str
    type: type
    default: str | int | float | bool | None  # None: it must be given
    description: str


def parameters_of(pipeline) -> dict[str, Parameter]:
    """Name -> parameter of a kfp pipeline, in the order of its function's signature."""
    return {
        name: Parameter(
            name=name,
            type=TYPES[given.type],
            default=TYPES[given.type](given.default) if given.optional else None,
            description=" ".join(given.description.split()),
        )
        for name, given in pipeline.component_spec.inputs.items()
    }


def markdown_table(parameters: dict[str, Parameter]) -> str:
    """The parameters as a Markdown table."""
    rows = ["| parameter | type | default | meaning |", "| --- | --- | --- | --- |"]
    for parameter in parameters.values():
        default = "none, give it" if parameter.default is None else f"`{_default(parameter)}`"
        rows.append(
            f"| `{parameter.name}` | {_type(parameter)} | {default} | {parameter.description} |"
        )
    return "\n".join(rows)


def help_text(parameters: dict[str, Parameter]) -> str:
    """The parameters as text for a terminal."""
    lines = []
    for parameter in parameters.values():
        default = "" if parameter.default is None else f" (default: {_default(parameter)})"
        lines.append(f"  {parameter.name}={_type(parameter).upper()}")
        lines += textwrap.wrap(
            parameter.description + default, 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _type(parameter: Parameter) -> str:
    return parameter.type.__name__


def _default(parameter: Parameter) -> str:
    """The default as a user would type it."""
    default = parameter.default
    return str(default).lower() if isinstance(default, bool) else str(default) or '""'


def parse(words: list[str], parameters: dict[str, Parameter]) -> dict:
    """Name -> typed value, from words of the form name=value; of several with one name the last.

    Raises:
        UserError: a word of another form, an unknown name, or a value of the wrong type.
    """
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name.startswith("-"):
            raise UserError(
                f"Parameters are given as name=value; got {word!r}."
                + _did_you_mean(name.lstrip("-"), parameters)
            )
        if name not in parameters:
            raise UserError(
                f"There is no parameter {name!r}.{_did_you_mean(name, parameters)}\n"
                + textwrap.fill(
                    f"The parameters are {', '.join(sorted(parameters))}.",
                    92,
                    initial_indent="  ",
                    subsequent_indent="  ",
                )
            )
        values[name] = _typed(value, parameters[name])
    return values


def _did_you_mean(name: str, parameters: dict[str, Parameter]) -> str:
    near = difflib.get_close_matches(name, parameters, n=1)
    return f" Did you mean {near[0]}=...?" if near else ""


def _typed(value: str, parameter: Parameter):
    try:
        if parameter.type is bool:
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        typed = parameter.type(value)
        if isinstance(typed, float) and not math.isfinite(typed):
            raise ValueError(value)
        return typed
    except (KeyError, ValueError):
        raise UserError(
            f"{parameter.name} must be {EXPECTED[parameter.type]}; got {value!r}."
        ) from None
