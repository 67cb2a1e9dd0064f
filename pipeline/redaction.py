"""Redaction of secrets in all output of the command line.

Inside `redacted_output`, `register` takes a secret where it is read or sent, and everything that
reaches stdout or stderr shows `***` in its place. A logging filter, as libraries offer it, would
not cover print, warnings and tracebacks.
"""

import base64
import contextlib
import html
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from urllib.parse import quote

MASK = "***"
MIN_LENGTH = 4  # A shorter secret would also be found inside words.

# Credentials that are redacted by their form, because nobody can register them: those in the
# messages of libraries and servers.
_PATTERNS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)"  # user:password in a URL
    r"|(?<=Bearer )[\w.~+/=-]{16,}|(?<=Basic )[\w+/=]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # JSON web token
    r"|\bya29\.[\w.-]+"  # access token of Google Cloud
)
_secrets: dict[str, re.Pattern] = {}


def register(secret: str):
    """Redact a secret from now on, also if it is encoded or broken into lines."""
    for part in {secret.strip(), *(line.strip() for line in secret.splitlines())}:
        if len(part) < MIN_LENGTH:
            continue
        encoded = base64.b64encode(part.encode()).decode()
        forms = {part, quote(part, safe=""), json.dumps(part)[1:-1], html.escape(part), encoded}
        patterns = [r"\s+".join(map(re.escape, form.split())) for form in forms]
        _secrets[part] = re.compile("|".join(sorted(patterns, key=len, reverse=True)))


def register_credentials(credentials: str):
    """Redact a token, or a Cookie header and each of its values."""
    register(credentials)
    for pair in credentials.split(";"):
        register(pair.partition("=")[2].strip("="))


def register_url(url: str):
    """Redact the password and the query of a URL."""
    authority, _, query = url.partition("://")[2].partition("?")
    register(authority.rpartition("@")[0])
    register(authority.rpartition("@")[0].partition(":")[2])
    register(query)
    for pair in query.split("&"):
        register(pair.rpartition("=")[2])


def redact(text: str) -> str:
    """Return the text without secrets."""
    for part in sorted(_secrets, key=len, reverse=True):
        text = _secrets[part].sub(MASK, text)
    return _PATTERNS.sub(MASK, text)


def shorten(text: str, length: int) -> str:
    """Return the start of a text. Redact it first: a part of a secret would not be recognized."""
    text = redact(text)
    return text if len(text) <= length else f"{text[:length]}..."


class _Redacted:
    """A text stream that redacts what is written to it, and exits if nobody reads it."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._exit_if_closed():
            self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines):
        self.write("".join(lines))

    def flush(self):
        with self._exit_if_closed():
            self._stream.flush()

    @contextlib.contextmanager
    def _exit_if_closed(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # the reader, e.g. `head`, has closed its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # Python flushes it
            sys.exit(141)  # as a shell reports SIGPIPE


@contextlib.contextmanager
def redacted_output() -> Iterator[None]:
    """Redact stdout and stderr, and the message or traceback that ends the body."""
    _secrets.clear()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Redacted, streams)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except SystemExit as exit:
        code = redact(exit.code) if isinstance(exit.code, str) else exit.code
        raise SystemExit(code) from None
    except Exception:  # A bug. Python would print its traceback without redaction.
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout, sys.stderr = streams
