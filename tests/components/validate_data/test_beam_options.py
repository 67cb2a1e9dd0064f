import os

import pytest

from components.validate_data.beam_options import (
    ALL_CORES,
    MANY_BYTES,
    complete,
    python_path_for_workers,
)
from trainer.common.errors import UserError


def test_without_options_this_process_does_the_work():
    assert complete([], 1000) == ["--runner=FnApiRunner"]


def test_much_data_is_read_on_all_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert complete([], MANY_BYTES) == ["--runner=FnApiRunner", *ALL_CORES]
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert complete([], MANY_BYTES) == ["--runner=FnApiRunner"]


def test_the_users_options_count():
    options = ["--runner=FlinkRunner", "--parallelism=8", "--save_main_session"]
    assert complete(options, 0) == ["--runner=FnApiRunner", *options]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--runer=FlinkRunner"], "known neither to validate_data nor to Beam: --runer"),
        (["--runner", "FlinkRunner"], "--name or --name=value; got 'FlinkRunner'"),
    ],
)
def test_a_mistyped_option_is_told(options, words):
    with pytest.raises(UserError, match=words):
        complete(options, 0)


@pytest.mark.parametrize("before", [None, "/somewhere"])
def test_the_path_is_as_it_was_afterwards(monkeypatch, before):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if before:
        monkeypatch.setenv("PYTHONPATH", before)
    with python_path_for_workers():
        assert os.getcwd() in os.environ["PYTHONPATH"].split(os.pathsep)
    assert os.environ.get("PYTHONPATH") == before
