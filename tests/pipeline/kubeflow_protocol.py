"""What Kubeflow Pipelines 2.17 accepts and refuses, as recorded in recorded/refusals.json."""

import json
import re

import kfp_server_api
import yaml

# Kind of thing -> its message in kfp_server_api, in which a body is parsed.
MESSAGES = {
    "pipelines": "V2beta1Pipeline",
    "experiments": "V2beta1Experiment",
    "runs": "V2beta1Run",
    "recurringruns": "V2beta1RecurringRun",
}
INT64 = ("max_concurrency", "interval_second")  # a number, or a number in a string
PYTHON = {"str": str, "bool": bool, "int": int, "datetime": str}
WORDS = {"str": "string", "bool": "bool", "int": "int32"}
SPEC_TYPES = {
    "STRING": ("string", str),
    "NUMBER_INTEGER": ("integer", int),
    "NUMBER_DOUBLE": ("double", (int, float)),
    "BOOLEAN": ("bool", bool),
    "LIST": ("list", list),
    "STRUCT": ("struct", dict),
}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Status of HTTP -> code of gRPC.
CODES = {400: 3, 404: 5, 409: 6, 500: 13}


class Refusal(Exception):
    """An answer that is not the one asked for.

    Attributes:
        status: HTTP's.
        body: What is answered: JSON, or text.
    """

    def __init__(self, status: int, message: str, cause: str = "", body=None):
        super().__init__(message)
        self.status = status
        self.body = body or {"code": CODES.get(status, 2), "message": message}
        if cause:
            detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": CODES[status]}
            self.body["details"] = [detail | {"message": cause}]


def parse(kind: str, content: bytes) -> dict:
    """The body of a request for a thing of this kind.

    Raises:
        Refusal: It is no JSON, or has a field or a value that the message does not have.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise Refusal(400, "unexpected EOF") from None
    _check(MESSAGES[kind], body, content.decode())
    return body


def _check(message: str, body: dict, text: str):
    model = getattr(kfp_server_api, message)
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    for name, value in body.items():
        if name not in attributes:
            where = text.index(json.dumps(name)) + 1
            raise Refusal(400, f'proto: (line 1:{where}): unknown field "{name}"')
        _check_value(name, model.openapi_types[attributes[name]], value, text)


def _check_value(name: str, kind: str, value, text: str):
    if kind in PYTHON:
        expected = (int, str) if name in INT64 else PYTHON[kind]
        if not isinstance(value, expected):
            raise _invalid(name, WORDS.get(kind, kind), value, text)
    elif re.match(r"(list|dict)\b|object$", kind):
        pass  # values of any kind
    elif allowed := getattr(getattr(kfp_server_api, kind), "allowable_values", None):
        if value not in allowed:
            raise _invalid(name, "enum", value, text)
    else:
        _check(kind, value, text)


def _invalid(name: str, kind: str, value, text: str) -> Refusal:
    shown = json.dumps(value)
    where = text.index(shown, text.index(json.dumps(name)) + len(name) + 2) + 1
    camel = re.sub(r"_(.)", lambda match: match[1].upper(), name)
    message = f"proto: (line 1:{where}): invalid value for {kind} field {camel}: {shown}"
    return Refusal(400, message)


def inputs_of(text: str) -> dict[str, dict]:
    """Name -> definition of each parameter of a compiled pipeline."""
    documents = list(yaml.load_all(text, LOADER))
    if not (documents and isinstance(documents[0], dict) and "pipelineInfo" in documents[0]):
        raise upload_refusal(400, "unknown template format")
    return documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})


def upload_refusal(status: int, message: str) -> Refusal:
    """A refusal by the server's older part, which takes uploads."""
    details = f"{message}\n...trimmed: the server's stack"
    return Refusal(status, message, body={"error_message": message, "error_details": details})


def check_parameters(values: dict, inputs: dict[str, dict]):
    """Raises Refusal unless the values are those that the pipeline takes."""
    reason = ""
    for name, given in inputs.items():
        if name not in values:
            if not given.get("isOptional"):
                reason = f"parameter {name} is not optional, yet has neither default value nor "
                reason += "user provided value"
            continue
        word, kind = SPEC_TYPES[given["parameterType"]]
        if not isinstance(values[name], kind):
            reason = f"input parameter {name} requires type {word}, but the input parameter is "
            reason += f"not of {word} value type"
    if unknown := set(values) - set(inputs):
        reason = f"parameter(s) provided are not required by pipeline: {', '.join(sorted(unknown))}"
    if reason:
        how = "Failed to create a new run: Failed to generate the ExecutionSpec: invalid pipeline "
        raise Refusal(400, f"{how}job inputs: Invalid input error: {reason}", reason)


def not_found(what: str, kind: str, item_id: str, status: int = 404) -> Refusal:
    """A refusal of something that is not there.

    Args:
        what: What the server says it failed to do.
        kind: The server's own word for the kind of thing, e.g. "Job" for a recurring run.
    """
    words = f"{kind} {item_id} not found"
    cause = words if status == 404 else "Internal Server Error"
    return Refusal(status, f"{what}: ResourceNotFoundError: {words}", cause)
