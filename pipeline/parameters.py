"""The pipeline's parameters: their definitions, and values from name=value or a file."""

import json
import math
import re
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import yaml
from google.protobuf.json_format import MessageToDict

from components.train import FLAGS
from pipeline.command_line import closest
from trainer.common.errors import UserError

# Types of parameters in a compiled pipeline.
TYPES = {
    "STRING": str,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}
EXPECTED = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list in JSON",
    dict: "an object in JSON",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of the pipeline. Without a default (None), it is required."""

    name: str
    type: type
    default: str | int | float | bool | list | dict | None
    description: str


def parameters_of(pipeline) -> dict[str, Parameter]:
    """Return name -> parameter of a kfp pipeline, in the order of its function's signature."""
    known = parameters_of_spec({"root": MessageToDict(pipeline.pipeline_spec.root)})
    return {name: known[name] for name in pipeline.component_spec.inputs}


def parameters_of_spec(spec: dict) -> dict[str, Parameter]:
    """Return name -> parameter of a compiled pipeline, sorted by name."""
    given = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return {name: _parameter(name, given[name]) for name in sorted(given)}


def _parameter(name: str, given: dict) -> Parameter:
    kind = TYPES[given["parameterType"]]
    default = kind(given.get("defaultValue", kind())) if given.get("isOptional") else None
    return Parameter(name, kind, default, " ".join(given.get("description", "").split()))


def help_text(parameters: dict[str, Parameter]) -> str:
    """Return the parameters as text for a terminal."""
    lines = []
    for parameter in parameters.values():
        default = "" if parameter.default is None else f" (default: {_default(parameter)})"
        lines.append(f"  {parameter.name}={parameter.type.__name__.upper()}")
        lines += textwrap.wrap(
            parameter.description + default, 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _default(parameter: Parameter) -> str:
    """Return the default as a user would type it."""
    default = parameter.default
    if isinstance(default, list | dict):
        return json.dumps(default)
    return str(default).lower() if isinstance(default, bool) else str(default) or '""'


def parse(arguments: list[str], parameters: dict[str, Parameter]) -> dict:
    """Parse arguments name=value; of several with one name, the last counts.

    Returns:
        Name -> typed value.

    Raises:
        UserError: An argument has another form, an unknown name, or a value of the wrong type.
    """
    values = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name.startswith("-"):
            near = _did_you_mean(name.lstrip("-"), parameters)
            # Without a similar name, it may be a misplaced secret.
            given = repr(argument) if near else "an argument without a name"
            raise UserError(f"Parameters are given as name=value; got {given}.{near}")
        _check_known(name, parameters)
        values[name] = _typed(value, parameters[name])
    return values


def read(path: str, parameters: dict[str, Parameter]) -> dict:
    """Read parameters from a TOML or YAML file (JSON is YAML too).

    Returns:
        Name -> typed value.

    Raises:
        UserError: The file cannot be read, or has an unknown name or a value of the wrong type.
    """
    try:
        text = Path(path).read_text()
        values = tomllib.loads(text) if path.endswith(".toml") else yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The parameter file {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must consist of lines name: value.")
    for name, value in values.items():
        _check_known(str(name), parameters)
        kind = parameters[name].type
        if kind is float and type(value) is int:
            values[name] = float(value)
        elif kind is str and type(value) is int:  # accelerator_count: 1, run_name: 2026
            values[name] = str(value)
        elif type(value) is not kind or (kind is float and not math.isfinite(value)):
            raise UserError(f"{path}: {name} must be {EXPECTED[kind]}; got {value!r}.")
    return values


def with_defaults(values: dict, parameters: dict[str, Parameter]) -> dict:
    """Return the values of all parameters, with defaults for those that are not given."""
    return {name: p.default for name, p in parameters.items() if p.default is not None} | values


def require(values: dict, parameters: dict[str, Parameter]):
    """Raise UserError if a required parameter has no value."""
    missing = [name for name, p in parameters.items() if p.default is None and name not in values]
    if missing:
        raise UserError(
            f"Required parameters are missing: {', '.join(missing)}. Give them as name=value or "
            "in a parameter file (--params)."
        )


def _check_known(name: str, parameters: dict[str, Parameter]):
    if name in parameters:
        return
    given = repr(name) if re.fullmatch(r"[a-z_]\w{,40}", name) else "of this name"
    if name in FLAGS:
        hint = f" It is a flag of the trainer: trainer_flags='--{name}=...'."
    else:
        known = f"The parameters are {', '.join(sorted(parameters))}."
        everything = textwrap.fill(known, 92, initial_indent="  ", subsequent_indent="  ")
        hint = _did_you_mean(name, parameters) or f"\n{everything}"
    raise UserError(f"There is no parameter {given}.{hint}")


def _did_you_mean(name: str, parameters: dict[str, Parameter]) -> str:
    near = closest(name, parameters)
    return f" Did you mean {near}=...?" if near else ""


def _typed(value: str, parameter: Parameter):
    try:
        if parameter.type is bool:
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if parameter.type in (list, dict):
            typed = json.loads(value)
            if type(typed) is not parameter.type:
                raise ValueError(value)
            return typed
        typed = parameter.type(value)
        if isinstance(typed, float) and not math.isfinite(typed):
            raise ValueError(value)
        return typed
    except (KeyError, ValueError):
        raise UserError(
            f"{parameter.name} must be {EXPECTED[parameter.type]}; got {value!r}."
        ) from None
