"""The command line: python -m pipeline COMMAND."""

import sys
from dataclasses import dataclass
from typing import Literal

import typer

from pipeline import command_line, compile, doctor, images, push, schedule, submit
from pipeline.command_line import add_command, option
from pipeline.redaction import redacted_output
from trainer.common.errors import UserError, without_traceback


@dataclass(frozen=True)
class RunConfig:
    """Run a whole pipeline on this machine.

    Each step runs in a process of its own, or with --runner=docker in a container of the images
    that `images` builds. Without files to read, small data sets are generated, once.
    Without output_dir, results go to build/output*.
    """

    pipeline: Literal["train", "predict"] = option("train", "Pipeline to run.")
    runner: Literal["subprocess", "docker"] = option("subprocess", "How to run a step.")
    list_parameters: bool = option(False, "Print the pipeline's parameters and exit.")


def _run(config: RunConfig, arguments: list[str]):
    from pipeline import run  # loads NumPy

    run.run_command(config, arguments)


def _app() -> typer.Typer:
    app = typer.Typer(
        help="Compile, run and schedule the YouTube-8M training pipeline.",
        # Shells complete the arguments of a program, not of `python -m pipeline`.
        add_completion=not sys.argv[0].endswith("__main__.py"),
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    add_command(app, "run", RunConfig, _run, arguments="NAME=VALUE")
    add_command(app, "compile", compile.CompileConfig, compile.compile_command)
    add_command(app, "images", images.ImagesConfig, images.build)
    add_command(app, "push", push.PushConfig, push.push)
    add_command(app, "submit", submit.SubmitConfig, submit.submit, arguments="NAME=VALUE")
    add_command(
        app, "schedule", schedule.ScheduleConfig, schedule.schedule, arguments="ACTION|NAME=VALUE"
    )
    add_command(app, "doctor", doctor.DoctorConfig, doctor.doctor, arguments="NAME=VALUE")
    return app


def main(arguments: list[str] | None = None):
    """Run a command and exit."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with redacted_output(), without_traceback():
        try:
            code = _app()(command_line.normalize(arguments), standalone_mode=False)
        except typer.TyperException as error:
            raise UserError(command_line.message(error)) from None
        sys.exit(code or 0)


if __name__ == "__main__":
    main()
