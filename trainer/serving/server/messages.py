"""Requests and responses of TensorFlow Serving's REST API, as dicts of JSON values.

https://www.tensorflow.org/tfx/serving/api_rest#predict_api: rows ("instances", "predictions") or
columns ("inputs", "outputs"). Binary values are written {"b64": "..."}.
"""

import base64
import binascii
from collections.abc import Iterable

import numpy as np


def read_inputs(body: dict, default_input: str) -> dict[str, np.ndarray]:
    """Return name -> array of the inputs in a request.

    Args:
        body: The request.
        default_input: Name of an input that is given without one.

    Raises:
        ValueError: The request is invalid.
    """
    if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
        raise ValueError('Expected a JSON object with either "instances" or "inputs".')
    if "inputs" in body:
        columns = _decoded(body["inputs"])
        columns = columns if isinstance(columns, dict) else {default_input: columns}
    else:
        columns = _columns(_decoded(body["instances"]), default_input)
    return {name: _array(name, values) for name, values in columns.items()}


def _columns(rows, default_input: str) -> dict[str, list]:
    if not isinstance(rows, list) or not rows:
        raise ValueError('Expected "instances" to be a list of at least one instance.')
    if not isinstance(rows[0], dict):
        return {default_input: rows}
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != names:
            raise ValueError(f"Instance {number} must have the inputs {', '.join(sorted(names))}.")
    return {name: [row[name] for row in rows] for name in names}


def _array(name: str, values) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:
        array = None
    if array is None or array.dtype == object:
        raise ValueError(f"The values of the input {name!r} must all have the same shape and type.")
    if array.dtype.kind in "US":  # NumPy cuts zeros from the end of fixed-length byte strings
        return np.asarray(values, dtype=object)
    return array


def _decoded(value):
    """Replace {"b64": "..."} by bytes."""
    if isinstance(value, dict):
        if value.keys() == {"b64"}:
            return decode_base64(value["b64"])
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict | list):
        return [_decoded(item) for item in value]
    return value


def decode_base64(text: str) -> bytes:
    """Return the bytes of a base64 text.

    Raises:
        ValueError: It is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"Expected base64 text: {error}.") from None


def write_outputs(outputs: dict[str, np.ndarray], as_rows: bool) -> dict:
    """Return the response with the outputs of a signature, in rows or in columns."""
    columns = {name: _values(output) for name, output in outputs.items()}
    if not as_rows:
        return {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows: Iterable[tuple] = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _values(output: np.ndarray) -> list:
    return texts(output) if output.dtype == object else output.tolist()


def texts(strings: np.ndarray) -> list:
    """Return byte strings as texts, with bytes that are not UTF-8 as \\xNN."""
    flat = [string.decode("utf-8", "backslashreplace") for string in strings.ravel().tolist()]
    return np.array(flat, dtype=object).reshape(strings.shape).tolist()
