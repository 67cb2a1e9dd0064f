import pytest

from components.code_digest import code_digest

CODE = '''
"""A loss."""

class Loss:
    """What is minimized."""

    def __call__(self, x):
        """Return twice x."""
        return 2 * x  # twice
'''


def digest(folder, text: str, name: str = "losses.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    result = code_digest(folder)
    (folder / name).unlink()
    return result


@pytest.mark.parametrize(
    "old, new",
    [
        ("  # twice", ""),
        ("twice x", "x, twice"),
        ('        """Return twice x."""\n', ""),
        ('"""A loss."""', ""),
        ("\n    def", "\n\n    # Called for each batch.\n    def"),
        ("2 * x", "(2\n            * x)"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(tmp_path, old, new):
    assert old in CODE
    assert digest(tmp_path, CODE.replace(old, new)) == digest(tmp_path / "elsewhere", CODE)


@pytest.mark.parametrize(
    "old, new", [("2 * x", "3 * x"), ("Loss:", "Loss(object):"), ("return 2 * x", "'2 * x'")]
)
def test_a_changed_expression_counts(tmp_path, old, new):
    assert digest(tmp_path, CODE.replace(old, new)) != digest(tmp_path, CODE)


def test_a_renamed_module_counts(tmp_path):
    assert digest(tmp_path, CODE, "loss.py") != digest(tmp_path, CODE)
