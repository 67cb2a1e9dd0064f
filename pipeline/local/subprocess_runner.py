"""Runs a compiled pipeline on this machine through kfp's local runner, a step a subprocess.

kfp decides what runs when, with which inputs. How a step is run and shown is ours, here and in
pipeline/docker_runner: kfp's own way of it has no name for the step that failed, prints each
step's inputs and outputs in full, and breaks where the path to Python holds a blank.
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

# Unless the user says otherwise: no talk of C++ libraries below an error, and no line kept back.
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", "PYTHONUNBUFFERED": "1"}


class StepFailed(Exception):
    """A step of the pipeline ended with an error.

    Attributes:
        step: Its name.
        reason: Why, in its own words if it left any.
    """

    def __init__(self, step: str, reason: str):
        super().__init__(f"{step} failed: {reason}")
        self.step, self.reason = step, reason


def run(pipeline: Path, arguments: dict, scratch: Path, job_id: str):
    """Runs the compiled pipeline, showing the output of its steps as they go.

    Args:
        pipeline: File that was compiled for Kubeflow.
        arguments: Parameter -> value.
        scratch: Folder for what the steps hand to each other. It is removed at the end.
        job_id: The unique id of the run.

    Raises:
        StepFailed: after the rest of the pipeline, of which the summary still runs.
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
    """A new folder in `scratch`, removed afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield Path(folder)


def run_steps(
    pipeline: Path, arguments: dict, folder: Path, runner, replaced: tuple, start, job_id: str
):
    """Has kfp run the compiled pipeline, each step by `start`.

    Args:
        pipeline: File that was compiled for Kubeflow.
        arguments: Parameter -> value.
        folder: For what the steps hand to each other.
        runner: One of kfp's local runners.
        replaced: The module and the name of the function by which that runner runs a step.
        start: Takes what that function takes; returns the step's name and a context manager of
            what has `stdout`, the step's lines, and, when it is left, `returncode`.
        job_id: The unique id of the run.

    Raises:
        StepFailed: after the rest of the pipeline, of which the summary still runs.
    """
    steps = _Steps()
    with _stop_on_signals(), _silent_kfp(), _replaced(*replaced, steps.by(start)):
        function = components.load_component_from_text(_for_local_runner(pipeline, job_id))
        local.init(
            runner,
            pipeline_root=f"{folder}/root",
            workspace_root=f"{folder}/workspace",  # kfp deletes it
            raise_on_error=False,
        )
        function(**arguments)
    if steps.failure:
        raise steps.failure


def step_name(command: list[str]) -> str:
    """The step that kfp's command runs."""
    return command[command.index("--function_to_execute") + 1]


def _for_local_runner(pipeline: Path, job_id: str) -> str:
    """Return the compiled pipeline as kfp's local runner can run it.

    Steps run once, because what fails here fails again. The local runner does not know the
    placeholder of the scheduled time, so it is replaced by the current time. It would replace that
    of the run's id by a random one.
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
        warnings.simplefilter("ignore")  # on images and accelerators, which do not matter here
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
    """Shows step after step.

    Attributes:
        failure: StepFailed of the first step that failed, or None.
    """

    def __init__(self):
        self.console = sys.stdout
        self.failure = None

    def by(self, start):
        """A function that runs a step by `start`, shows it, and returns its exit code."""
        return lambda *args, **kwargs: self._follow(*start(*args, **kwargs))

    def _follow(self, name: str, starting) -> int:
        self._say(f"\n{name}")
        start = time.monotonic()
        said = []
        with starting as running:
            for line in without_kfp(running.stdout):
                self._say(f"    {line}".rstrip())
                said.append(line)
        end = "done" if running.returncode == 0 else "failed"
        self._say(f"    {end} in {time.monotonic() - start:.0f} s")
        if running.returncode and not self.failure:
            self.failure = StepFailed(name, reason(said, running.returncode))
        return running.returncode

    def _say(self, text: str):
        # Not by print, which kfp replaces while a step runs.
        self.console.write(text + "\n")
        self.console.flush()


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A running process, with all its children; stopped if the body does not see its end."""
    # kfp has put the path of Python into a shell's script as it is.
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
    """Ends a process and its children, of which none keeps the output open then."""
    for signal_number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(subprocess.TimeoutExpired):  # then by force
            os.killpg(process.pid, signal_number)
            process.communicate(timeout=seconds)
            return


@contextlib.contextmanager
def _stop_on_signals():
    """Turns the signals that would end this process at once into exceptions, as Ctrl-C is."""

    def leave(number, frame):
        sys.exit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
