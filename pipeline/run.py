"""Run the whole pipeline on this machine."""

import contextlib
import os
import sys
import time
from datetime import UTC, datetime

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

# The generated data sets, and the settings that suit them: they are small.
GENERATED = {
    "video": {"batch_size": 256, "base_learning_rate": 0.05},
    "frame": {"batch_size": 32, "feature_names": "rgb,audio"},
}


def run_command(config, words: list[str]):
    """Run the pipeline with parameters name=value, or list the parameters."""
    known = _known_parameters()
    if config.list_parameters:
        print(parameters.help_text(known))
        return
    arguments = _complete(parameters.parse(words, known), known)
    try:
        run(arguments, config.runner)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The same command starts over and continues the training.",
            file=sys.stderr,
        )
        sys.exit(130)


def _known_parameters() -> dict[str, parameters.Parameter]:
    from pipeline.graphs import train as graph  # loads kfp

    return parameters.parameters_of(graph.build(graph.Images("", ""), graph.TARGETS["kubeflow"]))


def _complete(given: dict, known: dict[str, parameters.Parameter]) -> dict:
    """The arguments of a run on this machine, checked as far as can be before it starts."""
    missing = [name for name in DATA if name not in given]
    if len(missing) == 1:
        raise UserError(f"{missing[0]} must be given too: train_data and eval_data go together.")
    defaults = {name: p.default for name, p in known.items() if p.default is not None}
    check(defaults | given)
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
        arguments |= _generated_data("frame" if given.get("frame_features") else "video")
    arguments |= given
    now = datetime.now(UTC)
    for name in DATA:
        with _naming(name):
            files = fill_in(arguments[name], now)
            arguments[name] = ",".join(map(_absolute, files.split(",")))
            storage.glob(arguments[name])
    arguments["output_dir"] = _absolute(arguments["output_dir"])
    for name in ("vocabulary", "data_schema", "data_baseline"):
        if arguments.get(name):
            arguments[name] = _absolute(arguments[name])
            with _naming(name):
                storage.size(arguments[name])
    return arguments


def _generated_data(kind: str) -> dict:
    """The arguments for a data set that is made when it is not there yet."""
    folder = ROOT / ".cache" / f"generated-{kind}"
    if not folder.exists():
        print(f"Making data to run on, once, in {_shown(folder)}:", flush=True)
    generate_data.generate(str(folder), frame_features=kind == "frame")
    return {
        "train_data": f"{folder}/train*.tfrecord",
        "eval_data": f"{folder}/eval*.tfrecord",
        "vocabulary": f"{folder}/vocabulary.csv",
        # Of its own: a model of other data can not be measured on this one.
        "output_dir": str(BUILD / f"output-generated-{kind}"),
        **GENERATED[kind],
    }


def _absolute(path: str) -> str:
    path = path.strip()
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))


def _shown(value) -> str:
    """A value, and a path as short as can be."""
    return str(value).removeprefix(os.getcwd() + os.sep)


@contextlib.contextmanager
def _naming(parameter: str):
    """Puts the parameter's name before a mistake in its value."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{parameter}: {error}") from None


def run(arguments: dict, runner: str = "subprocess"):
    """Compiles the pipeline, runs it with `arguments`, and tells what came of it.

    Raises:
        UserError: a step failed; or there is no engine, or an image is missing, to run it in.
    """
    from pipeline.local import subprocess_runner as local  # loads kfp

    run_pipeline = local.run
    if runner == "docker":
        from pipeline.local import docker_runner

        run_pipeline = docker_runner.run

    for name, value in arguments.items():
        files = f"  (files: {len(storage.glob(value))})" if name in DATA else ""
        print(f"{name + ':':<20}{_shown(value)}{files}")
    sys.stdout.flush()

    # Beside what is compiled for a cluster, which names images in a registry.
    num_gpus = parse_accelerator_count(arguments.get("accelerator_count", "0"))
    names = local_names("gpu" if num_gpus else "cpu")
    pipeline = compile_pipeline(CompileConfig(str(BUILD / "local")), names)["kubeflow"]
    folder = run_folder(arguments["output_dir"], arguments["run_name"], "", "")
    try:
        run_pipeline(pipeline, arguments, BUILD / "kfp")
    except local.StepFailed as failed:
        # The summary step does not get the output of a step that recorded no error, so write the
        # summary again with it. If that fails, report the step's error all the same.
        with contextlib.suppress(UserError):
            run_id = storage.read_json(storage.join(folder, "summary.json"))["run_id"]
            summary = summarise(folder, run_id, "FAILED", failed.reason)
            print(f"\n{_links(folder, summary)}", flush=True)
        raise UserError(f"{failed.step} failed: {failed.reason}") from None

    summary = storage.read_json(storage.join(folder, "summary.json"))
    print(f"\n{_table(summary)}\n\n{_verdict(summary)}\n\n{_links(folder, summary)}")
    if summary["outcome"] not in ("published", "rejected"):
        # kfp's local runner skips the steps of a condition that it cannot evaluate, and still
        # reports a success.
        raise UserError(f"The pipeline ended without a result: {summary['error']}")


def _table(summary: dict) -> str:
    """The metrics of the new model, and of the one that was published, if any was."""
    rows = [("", *(metric.title for metric in METRICS.values()))]
    models = {"new model": summary["metrics"], "published before": summary["champion"]}
    for name, metrics in models.items():
        if metrics:
            rows.append((name, *(f"{metrics[metric]:.4f}" for metric in METRICS)))
    return "\n".join(f"{row[0]:<18}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def _verdict(summary: dict) -> str:
    return f"{'accepted' if summary['accepted'] else 'rejected'}: {summary['reason']}"


def _links(folder: str, summary: dict) -> str:
    """Where the reports and the model are."""
    places = {"Summary": storage.join(folder, "summary.html"), **summary["reports"]}
    if summary["model"]:
        places["Model"] = summary["model"]
    return "\n".join(f"{title + ':':<12}{_shown(path)}" for title, path in places.items())
