"""How a mistake is told."""

import pytest

from trainer.common.errors import reason


@pytest.mark.parametrize(
    "error, told",
    [
        (
            FileNotFoundError(2, "No such file or directory", "a/b"),
            "No such file or directory: a/b",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("first line.\nsecond line"), "first line"),
        # As TensorFlow words it, around what the system said.
        (
            RuntimeError("{{function_node __wrapped__SaveV2}} a/b; too large [Op:SaveV2]"),
            "a/b; too large",
        ),
        (RuntimeError("{{function_node __wrapped__SaveV2}}"), "RuntimeError"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_error_in_one_line(error, told):
    assert reason(error) == told
