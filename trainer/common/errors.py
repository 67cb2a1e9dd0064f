"""Errors that a user can correct, shown without a traceback."""

import contextlib
import re
import signal
import sys


class UserError(ValueError):
    """An error that the user can correct: invalid input, an invalid flag, a missing file.

    The message says what happened, what was expected and what was given. Commands and steps show
    only the message. Any other exception is a bug and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """Return an error's message in one line, without the node and kernel names of TensorFlow."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error)).strip()
    return text.splitlines()[0].rstrip(". ") if text else type(error).__name__


@contextlib.contextmanager
def without_traceback():
    """Exit with `error: MESSAGE` and exit code 1 if the body raises a UserError.

    Ctrl-C exits with exit code 130.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
