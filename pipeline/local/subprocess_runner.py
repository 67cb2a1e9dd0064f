"""Run a compiled pipeline on this machine with kfp's local runner, each step in a subprocess.

kfp.local decides which step runs when and with which inputs. Its function that runs a step is
replaced, here and in docker_runner.py, because it does not report which step failed, prints all
inputs and outputs, and fails if the path of Python contains a space.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import yaml
from kfp import components, dsl, local
from kfp.local import subprocess_task_handler

from pipeline.logs import reason, without_kfp
from pipeline.paths import ROOT

GRACE_SECONDS = 30  # for a step to save its work when it is told to stop

# Defaults for the steps: no log messages of C++ libraries, and unbuffered output.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", "PYTHONUNBUFFERED": "1"}


class StepFailed(Exception):
    """A step of the pipeline failed.

    Attributes:
        step: Name of the step.
        reason: Its error message, or how it ended.
    """

    def __init__(self, step: str, reason: str):
        super().__init__(f"{step} failed: {reason}")
        self.step, self.reason = step, reason


def run(pipeline: Path, arguments: dict, scratch: Path, job_id: str):
    """Run a compiled pipeline and print the steps' output.

    Args:
        pipeline: File that is compiled for Kubeflow.
        arguments: Parameter -> value.
        scratch: Folder for a temporary folder with the steps' artifacts.
        job_id: The unique id of the run.

    Raises:
        StepFailed: A step failed. The summary step has run nevertheless.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]

    def start(full_command: list[str], env_vars: dict[str, str] | None = None):
        environment = {
            **ENVIRONMENT,
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TMPDIR": str(folder),  # kfp leaves files there
            **(env_vars or {}),
        }
        return step_name(full_command), process(full_command, environment)

    with scratch_folder(scratch) as folder:
        runner = local.SubprocessRunner(use_venv=False)
        replaced = (subprocess_task_handler, "run_local_subprocess")
        run_steps(pipeline, arguments, folder, runner, replaced, start, job_id)


@contextlib.contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """Yield a temporary folder in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)


def run_steps(
    pipeline: Path, arguments: dict, folder: Path, runner, replaced: tuple, start, job_id: str
):
    """Run a compiled pipeline with one of kfp's local runners, each step by `start`.

    Args:
        pipeline: File that is compiled for Kubeflow.
        arguments: Parameter -> value.
        folder: Folder for the steps' artifacts.
        runner: The local runner.
        replaced: Module and name of the function by which the runner runs a step.
        start: Called instead of this function. Returns the step's name and a context manager of
            an object with `stdout`, the step's lines, and after the exit `returncode`.
        job_id: The unique id of the run.

    Raises:
        StepFailed: A step failed. The summary step has run nevertheless.
    """
    steps = _Steps()
    with _stop_on_signals(), _silent_kfp(), _replaced(*replaced, steps.by(start)):
        function = components.load_component_from_text(_for_local_runner(pipeline, job_id))
        local.init(
            runner,
            pipeline_root=f"{folder}/root",
            workspace_root=f"{folder}/workspace",  # which kfp deletes
            raise_on_error=False,
        )
        function(**arguments)
    if steps.failure:
        raise steps.failure


def step_name(command: list[str]) -> str:
    """Return the name of the step that a command of kfp runs."""
    return command[command.index("--function_to_execute") + 1]


def _for_local_runner(pipeline: Path, job_id: str) -> str:
    """Return the compiled pipeline in a form that kfp's local runner supports.

    Retries are removed, because a local failure repeats. The placeholder of the scheduled time,
    which the local runner does not support, is replaced by the current time, and that of the run's
    id, which it would replace by a random one, by `job_id`.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = pipeline.read_text().replace(dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER, now)
    text = text.replace(dsl.PIPELINE_JOB_ID_PLACEHOLDER, job_id)
    documents = list(yaml.safe_load_all(text))
    for component in [documents[0]["root"], *documents[0]["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    return yaml.safe_dump_all(documents)


@contextlib.contextmanager
def _silent_kfp():
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about images and accelerators, which are not used
        yield


@contextlib.contextmanager
def _replaced(module, name: str, function):
    original = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, original)


class _Steps:
    """Prints the steps' output.

    Attributes:
        failure: StepFailed of the first step that failed, or None.
    """

    def __init__(self):
        self.console = sys.stdout
        self.failure = None

    def by(self, start):
        """Return a function that runs a step by `start` and returns its exit code."""
        return lambda *args, **kwargs: self._follow(*start(*args, **kwargs))

    def _follow(self, name: str, starting) -> int:
        self._print(f"\n{name}")
        start = time.monotonic()
        lines = []
        with starting as running:
            for line in without_kfp(running.stdout):
                self._print(f"    {line}".rstrip())
                lines.append(line)
        end = "done" if running.returncode == 0 else "failed"
        self._print(f"    {end} in {time.monotonic() - start:.0f} s")
        if running.returncode and not self.failure:
            self.failure = StepFailed(name, reason(lines, running.returncode))
        return running.returncode

    def _print(self, text: str):
        # Not with print, which kfp replaces while a step runs.
        self.console.write(text + "\n")
        self.console.flush()


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Start a process; after the body, wait for it, or stop it and its children if that raises."""
    # kfp inserts the path of Python into a shell script without quotes.
    command = [part.replace(sys.executable, shlex.quote(sys.executable)) for part in command]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield child
        child.wait()
    finally:
        if child.poll() is None:
            _stop(child)
        child.stdout.close()


def _stop(process: subprocess.Popen):
    """End a process and its children, so that none keeps the output open."""
    for signal_number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(subprocess.TimeoutExpired):  # then SIGKILL
            os.killpg(process.pid, signal_number)
            process.communicate(timeout=seconds)
            return


@contextlib.contextmanager
def _stop_on_signals():
    """Turn SIGTERM and SIGHUP into exceptions, as Ctrl-C is, so that steps are stopped."""

    def leave(number, frame):
        sys.exit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
