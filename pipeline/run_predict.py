"""Run batch prediction on this machine."""

import sys
import time
import uuid

from components.run_folder import run_folder
from pipeline import parameters
from pipeline.checks import check
from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.images import local_names
from pipeline.paths import BUILD
from pipeline.run import (
    generated_data,
    known_parameters,
    make_absolute,
    run_compiled,
    short,
)
from trainer.common import storage
from trainer.common.errors import UserError


def run_command(config, given: list[str]):
    """Run the pipeline with parameters name=value, or list the parameters."""
    known = known_parameters("predict")
    if config.list_parameters:
        print(parameters.help_text(known))
        return
    arguments = complete(parameters.parse(given, known), known)
    for name, value in arguments.items():
        print(f"{name + ':':<20}{short(value)}")
    sys.stdout.flush()
    run(arguments, config.runner)


def complete(given: dict, known: dict[str, parameters.Parameter]) -> dict:
    """Return the arguments of a run on this machine, checked as far as possible.

    Raises:
        UserError: a value is out of its range, or no file matches.
    """
    check(parameters.with_defaults(given, known))
    arguments = {"run_name": time.strftime("predict-%Y%m%d-%H%M%S")}
    if "data" in given:
        arguments["output_dir"] = str(BUILD / "output")
    else:
        generated = generated_data("video")
        arguments |= {name: generated[name] for name in ("output_dir", "vocabulary")}
        arguments["data"] = generated["eval_data"]
    arguments |= given
    folders = ("output_dir", "model_dir", "predictions_dir")
    make_absolute(arguments, ("data",), ("vocabulary", "data_baseline"), folders)
    return arguments


def run(arguments: dict, runner: str = "subprocess"):
    """Compile the pipeline, run it with `arguments`, and print where the predictions are.

    Raises:
        UserError: a step failed; or there is no engine, or an image is missing, to run it in.
    """
    from pipeline.local.subprocess_runner import StepFailed  # loads kfp

    job_id = uuid.uuid4().hex[:8]
    config = CompileConfig(str(BUILD / "local"))
    compiled = compile_pipeline(config, local_names("cpu"), "predict")["kubeflow"]
    try:
        run_compiled(compiled, arguments, runner, job_id)
    except StepFailed as failed:
        raise UserError(f"{failed.step} failed: {failed.reason}") from None
    folder = run_folder(arguments["output_dir"], arguments["run_name"], "", job_id)
    predictions = arguments.get("predictions_dir") or storage.join(folder, "predictions")
    summary = storage.read_json(storage.join(predictions, "predictions.json"))
    print(
        f"\n{summary['statistics']['videos']:,} videos in {len(summary['files']):,} files\n"
        f"Predictions: {short(storage.join(predictions, 'predictions'))}\n"
        f"Report:      {short(storage.join(predictions, 'report.html'))}\n"
        f"Validation:  {short(storage.join(folder, 'validation/report.html'))}"
    )
