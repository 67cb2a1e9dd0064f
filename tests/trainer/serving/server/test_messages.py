"""Requests and responses of TensorFlow Serving's REST API."""

import numpy as np
import pytest

from trainer.serving.server.messages import read_inputs, write_outputs


@pytest.mark.parametrize(
    "body, expected",
    [
        ({"instances": [[1.0, 2.0]]}, {"x": [[1.0, 2.0]]}),
        ({"instances": [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]}, {"a": [1, 3], "b": [[2], [4]]}),
        ({"instances": [{"b64": "AAA="}]}, {"x": [b"\0\0"]}),
        ({"inputs": [1, 2]}, {"x": [1, 2]}),
        ({"inputs": {"a": [{"b64": "YQ=="}]}}, {"a": [b"a"]}),
    ],
)
def test_inputs(body, expected):
    inputs = read_inputs(body, default_input="x")
    assert {name: values.tolist() for name, values in inputs.items()} == expected


@pytest.mark.parametrize(
    "body, message",
    [
        ([], "Expected a JSON object"),
        ({"inputs": [1], "instances": [1]}, "either"),
        ({"instances": [{"a": 1}, {"b": 1}]}, "Instance 1 must have the inputs a"),
        ({"instances": [[1], [1, 2]]}, "'x' must all have the same shape and type"),
    ],
)
def test_invalid_inputs(body, message):
    with pytest.raises(ValueError, match=message):
        read_inputs(body, default_input="x")


def test_outputs_in_rows_and_columns():
    outputs = {"id": np.array([b"a", b"\xff"], object), "scores": np.array([[0.5], [0.25]])}
    assert write_outputs(outputs, as_rows=True) == {
        "predictions": [{"id": "a", "scores": [0.5]}, {"id": "\\xff", "scores": [0.25]}]
    }
    assert write_outputs(outputs, as_rows=False) == {
        "outputs": {"id": ["a", "\\xff"], "scores": [[0.5], [0.25]]}
    }
    one = {"scores": np.array([[0.5]])}
    assert write_outputs(one, as_rows=True) == {"predictions": [[0.5]]}
    assert write_outputs(one, as_rows=False) == {"outputs": [[0.5]]}
