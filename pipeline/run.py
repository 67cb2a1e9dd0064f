"""Run the whole pipeline on this machine."""

import contextlib
import os
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from components import generate_data
from components.dates import fill_in
from components.run_folder import run_folder
from components.summary import summarise
from components.train import parse_accelerator_count
from pipeline import parameters
from pipeline.checks import check
from pipeline.compile import CompileConfig, compile_pipeline
from pipeline.images import local_names
from pipeline.paths import BUILD, ROOT
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.evaluation.metrics import METRICS

DATA = ("train_data", "eval_data")

# Generated data set -> parameters that suit its small size.
GENERATED = {
    "video": {"batch_size": 256, "base_learning_rate": 0.05},
    "frame": {"batch_size": 32, "feature_names": "rgb,audio"},
}


def run_command(config, given: list[str]):
    """Run the pipeline with parameters name=value, or list the parameters."""
    if config.pipeline == "predict":
        from pipeline import run_predict

        run_predict.run_command(config, given)
        return
    known = known_parameters()
    if config.list_parameters:
        print(parameters.help_text(known))
        return
    arguments = _complete(parameters.parse(given, known), known)
    try:
        run(arguments, config.runner)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The same command starts over and continues the training.",
            file=sys.stderr,
        )
        sys.exit(130)


def known_parameters(pipeline: str = "train") -> dict[str, parameters.Parameter]:
    """Return name -> parameter of a pipeline."""
    from pipeline import graphs
    from pipeline.graphs.common import TARGETS, Images  # loads kfp

    built = graphs.load(pipeline).build(Images("", ""), TARGETS["kubeflow"])
    return parameters.parameters_of(built)


def _complete(given: dict, known: dict[str, parameters.Parameter]) -> dict:
    """Return the arguments of a local run, validated as far as possible before it starts."""
    missing = [name for name in DATA if name not in given]
    if len(missing) == 1:
        raise UserError(f"{missing[0]} is missing. Give both train_data and eval_data, or neither.")
    check(parameters.with_defaults(given, known))
    if given.get("num_workers", 1) > 1:
        raise UserError(
            "num_workers must be 1 on this machine, where there is no Kubernetes; got "
            f"{given['num_workers']}."
        )
    arguments = {
        "run_name": time.strftime("%Y%m%d-%H%M%S"),
        "output_dir": str(BUILD / "output"),
    }
    if missing:
        arguments |= generated_data("frame" if given.get("frame_features") else "video")
    arguments |= given
    make_absolute(arguments, DATA, ("vocabulary", "data_schema", "data_baseline"), ("output_dir",))
    return arguments


def make_absolute(
    arguments: dict, globs: tuple[str, ...], files: tuple[str, ...], folders: tuple[str, ...]
):
    """Fill in dates and make paths absolute, in the parameters that are globs, files or folders.

    Raises:
        UserError: No file matches a glob, or a file does not exist.
    """
    now = datetime.now(UTC)
    for name in globs:
        with _naming(name):
            patterns = fill_in(arguments[name], now).split(",")
            arguments[name] = ",".join(map(_absolute, patterns))
            storage.glob(arguments[name])
    for name in (*files, *folders):
        if arguments.get(name):
            arguments[name] = _absolute(arguments[name])
            with _naming(name):
                if name in files:
                    storage.size(arguments[name])


def generated_data(kind: str) -> dict:
    """Generate a data set if it does not exist; return the arguments for a run on it."""
    folder = ROOT / ".cache" / f"generated-{kind}"
    if not folder.exists():
        print(f"Generating data in {short(folder)}:", flush=True)
    generate_data.generate(str(folder), frame_features=kind == "frame")
    return {
        "train_data": f"{folder}/train*.tfrecord",
        "eval_data": f"{folder}/eval*.tfrecord",
        "vocabulary": f"{folder}/vocabulary.csv",
        # A folder of its own: a model of other data cannot be evaluated on this data.
        "output_dir": str(BUILD / f"output-generated-{kind}"),
        **GENERATED[kind],
    }


def _absolute(path: str) -> str:
    path = path.strip()
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))


def short(value) -> str:
    """Return a value as text; a path below the current folder relative to it."""
    return str(value).removeprefix(os.getcwd() + os.sep)


@contextlib.contextmanager
def _naming(parameter: str):
    """Prefix the message of a UserError with a parameter's name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{parameter}: {error}") from None


def run(arguments: dict, runner: str = "subprocess"):
    """Compile the pipeline, run it with `arguments`, and print the result.

    Raises:
        UserError: A step failed, or there is no Docker engine or image to run it in.
    """
    from pipeline.local.subprocess_runner import StepFailed  # loads kfp

    for name, value in arguments.items():
        files = f"  (files: {len(storage.glob(value))})" if name in DATA else ""
        print(f"{name + ':':<20}{short(value)}{files}")
    sys.stdout.flush()

    # In a folder of its own: what is compiled for a cluster names images in a registry.
    num_gpus = parse_accelerator_count(arguments.get("accelerator_count", "0"))
    names = local_names("gpu" if num_gpus else "cpu")
    if runner == "subprocess":
        names = dict.fromkeys(names, "")  # run.json records the images that are used
    pipeline = compile_pipeline(CompileConfig(str(BUILD / "local")), names)["kubeflow"]
    job_id = uuid.uuid4().hex[:8]
    folder = run_folder(arguments["output_dir"], arguments["run_name"], "", job_id)
    try:
        run_compiled(pipeline, arguments, runner, job_id)
    except StepFailed as failed:
        # The summary step does not get the output of a step that recorded no error, so write the
        # summary again with it. If that fails, report the step's error all the same.
        with contextlib.suppress(UserError):
            summary = summarise(folder, job_id, "FAILED", failed.reason)
            print(f"\n{_links(folder, summary)}", flush=True)
        raise UserError(f"{failed.step} failed: {failed.reason}") from None

    summary = storage.read_json(storage.join(folder, "summary.json"))
    print(f"\n{_table(summary)}\n\n{_verdict(summary)}\n\n{_links(folder, summary)}")
    if summary["outcome"] not in ("published", "rejected"):
        # kfp's local runner skips the steps of a condition that it cannot evaluate, and still
        # reports a success.
        raise UserError(f"The pipeline ended without a result: {summary['error']}")


def run_compiled(pipeline: Path, arguments: dict, runner: str, job_id: str):
    """Run a compiled pipeline with a runner, "subprocess" or "docker"."""
    if runner == "docker":
        from pipeline.local import docker_runner as local
    else:
        from pipeline.local import subprocess_runner as local
    local.run(pipeline, arguments, BUILD / "kfp", job_id)


def _table(summary: dict) -> str:
    """Return a table of the metrics of the new model and of the published one, if any."""
    rows = [("", *(metric.title for metric in METRICS.values()))]
    models = {"new model": summary["metrics"], "published": summary["champion"]}
    for name, metrics in models.items():
        if metrics:
            rows.append((name, *(f"{metrics[metric]:.4f}" for metric in METRICS)))
    return "\n".join(f"{row[0]:<18}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _verdict(summary: dict) -> str:
    return f"{'accepted' if summary['accepted'] else 'rejected'}: {summary['reason']}"


def _links(folder: str, summary: dict) -> str:
    """Return the paths of the reports and the model."""
    places = {"Summary": storage.join(folder, "summary.html"), **summary["reports"]}
    if summary["model"]:
        places["Model"] = summary["model"]
    return "\n".join(f"{title + ':':<12}{short(path)}" for title, path in places.items())
