import re
import sys

import pytest
from kfp import compiler, dsl

from pipeline.local import subprocess_runner as local

LOGGED = """\
[KFP Executor 2025-01-31 12:00:00,123 INFO]: Looking for component `train` in x
[KFP Executor 2025-01-31 12:00:00,123 INFO]: Loading KFP component "train" from /x
[KFP Executor 2025-01-31 12:00:00,124 INFO]: Got executor_input:
{
    "inputs": {
        "parameterValues": {}
    }
}
[KFP Executor 2025-01-31 12:00:01,000 INFO]: step 100: loss 12.3
[KFP Executor 2025-01-31 12:00:01,000 WARNING]: slow disk
printed {
[KFP Executor 2025-01-31 12:00:02,000 INFO]: Wrote executor output file to /x.
"""


def test_lines_of_kfp_are_left_out():
    shown = list(local.without_kfp(LOGGED.splitlines(keepends=True)))
    assert shown == ["step 100: loss 12.3", "WARNING: slow disk", "printed {"]


@pytest.mark.parametrize(
    "lines, return_code, expected",
    [
        (
            ["reading", "error: shard 3 is broken:", "expected x"],
            1,
            "shard 3 is broken:\nexpected x",
        ),
        (["Traceback (most ...", "  File x", "  KeyError: 'id'", ""], 1, "KeyError: 'id'"),
        ([], 3, "exit code 3"),
        (["step 100"], -9, "it was killed by SIGKILL; it may have run out of memory"),
        (["step 100"], 128 + 15, "it was killed by SIGTERM"),
    ],
)
def test_reason_of_a_failed_step(lines, return_code, expected):
    assert local.reason(lines, return_code) == expected


SAVES_WHEN_STOPPED = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


def test_stopped_step_has_time_to_save(tmp_path):
    # The step is a child of a shell, as in kfp's commands.
    command = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", SAVES_WHEN_STOPPED]
    saved = tmp_path / "saved"
    with pytest.raises(KeyboardInterrupt), local.process([*command, str(saved)], {}) as step:
        assert step.stdout.readline() == "ready\n"
        raise KeyboardInterrupt
    assert saved.exists()


@dsl.component(base_image="none", install_kfp_package=False)
def greet(name: str) -> str:
    print(f"Hello, {name}.")
    return name


@dsl.component(base_image="none", install_kfp_package=False)
def fail(name: str):
    raise SystemExit(f"error: {name} is unknown")


@dsl.component(base_image="none", install_kfp_package=False)
def say_goodbye(status: dsl.PipelineTaskFinalStatus):
    print(f"Goodbye after {status.state}.")


@dsl.pipeline
def greet_and_fail(name: str):
    with dsl.ExitHandler(say_goodbye()):
        fail(name=greet(name=name).output).set_retry(3)


def test_failed_step_is_named_and_not_retried_and_the_exit_handler_runs(tmp_path, capfd):
    compiler.Compiler().compile(greet_and_fail, str(tmp_path / "pipeline.yaml"))
    with pytest.raises(local.StepFailed) as failed:
        local.run(tmp_path / "pipeline.yaml", {"name": "it's me"}, tmp_path / "scratch", "1a2b")
    assert (failed.value.step, failed.value.reason) == ("fail", "it's me is unknown")
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    said = [line for line in lines if line and not re.fullmatch(r"(done|failed) in \d+ s", line)]
    assert said == [
        "greet",
        "Hello, it's me.",
        "fail",
        "error: it's me is unknown",
        "say_goodbye",
        "Goodbye after FAILED.",
    ]
    assert list((tmp_path / "scratch").iterdir()) == []
