"""How a user's mistake is told apart from a fault of ours."""

import contextlib
import re
import signal
import sys


class UserError(ValueError):
    """A mistake that the user can mend: wrong input, a wrong flag, a file that is not there.

    Its message says what happened, what was expected and what was given. Commands and steps show
    the message alone; any other exception is a fault of ours and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """What went wrong, in one line: of TensorFlow's text without the names of node and kernel."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error)).strip()
    return text.splitlines()[0].rstrip(". ") if text else type(error).__name__


@contextlib.contextmanager
def without_traceback():
    """Ends the process with `error: MESSAGE` and exit code 1 when the body raises a UserError.

    Ctrl-C ends it with exit code 130.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
