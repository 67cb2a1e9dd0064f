"""The command line's output, and the registry's request for a login."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import registry
from trainer.common.errors import UserError


def test_closed_output_ends_help_without_a_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipeline", "--help"]
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(command, cwd=root, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer service="r"',
        'Bearer realm="http://x.test/token"',
        'Bearer realm="http://localhost.x"',
        'Bearer realm="http://localhost:1@x.test/"',
    ],
)
def test_password_is_sent_to_no_realm_in_plain_text(challenge):
    login = {"username": "me", "password": "secret"}
    with pytest.raises(UserError, match="https://") as error:
        registry._authorization(None, {"WWW-Authenticate": challenge}, login, "p/r")
    assert "secret" not in str(error.value)
