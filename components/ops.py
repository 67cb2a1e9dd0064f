"""Kubeflow faces of the steps: what each takes and gives, and nothing else.

The text of a function below travels in the compiled pipeline and runs alone, in an image (or a
subprocess) that holds our packages. So a body imports what it uses, and nothing is loaded here.
The graph names the images.
"""

from typing import NamedTuple

from kfp.dsl import (
    HTML,
    Artifact,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
    OutputPath,
    PipelineTaskFinalStatus,
    component,
)

step = component(base_image="set-in-the-graph", install_kfp_package=False)


@step
def validate_data(
    train_data: str,
    eval_data: str,
    vocabulary: str,
    fail_on: str,
    schema: str,
    baseline: str,
    validation_flags: str,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    scheduled_at: str,
    reuse_training: bool,
    trainer_flags: str,
    num_gpu: str,
    num_workers: int,
    commit: str,
    images: dict,
    libraries: str,
    # Flags of the trainer. Each becomes a parameter of the pipeline, with the flag's default and
    # help. They are checked here, before the data is read and before a GPU is waited for.
    feature_names: str,
    feature_sizes: str,
    frame_features: bool,
    num_classes: int,
    model: str,
    batch_size: int,
    num_epochs: int,
    label_loss: str,
    optimizer: str,
    base_learning_rate: float,
    data_statistics: Output[Artifact],
    validation_report: Output[HTML],
) -> NamedTuple(
    "Validated",
    [("train_data", str), ("eval_data", str), ("train_dir", str), ("trainer_argv", list)],
):
    parameters = dict(locals())

    import json
    import logging

    from components.dates import fill_in, run_time
    from components.registry.lineage import training_statistics
    from components.run_folder import describe, run_folder
    from components.summary import recorded
    from components.train import check_num_workers, command_line, train_folder, trainer_config
    from components.validate_data.flags import parse
    from components.validate_data.references import Settings
    from components.validate_data.validation import validate
    from trainer.common import storage
    from trainer.common.errors import without_traceback
    from trainer.data import manifest

    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "validate_data"):
        describe(run, parameters)
        config = trainer_config(parameters)
        # Here, once, so that all steps read the same files. A run that makes up for a missed one
        # reads the files of the day that was missed.
        moment = run_time(scheduled_at)
        train_data, eval_data = fill_in(train_data, moment), fill_in(eval_data, moment)
        check_num_workers(num_workers, train_data)
        folder = storage.join(run, "validation")
        thresholds, beam_args = parse(validation_flags)
        publish_dir = storage.join(output_dir, "published")
        validate(
            {"train": train_data, "eval": eval_data},
            folder,
            config.record_format,
            beam_args,
            Settings(
                fail_on=fail_on,
                vocabulary=vocabulary,
                baseline=baseline or training_statistics(publish_dir, config.model_flags),
                schema=schema,
                thresholds=thresholds,
            ),
        )
        for artifact, name in (
            (data_statistics, "statistics.json"),
            (validation_report, "report.html"),
        ):
            storage.write_bytes(artifact.path, storage.read_bytes(storage.join(folder, name)))
        listed = {
            split: manifest.read(storage.join(folder, split + manifest.SUFFIX))
            for split in ("train", "eval")
        }
        train_data, eval_data = (
            manifest.store(files, storage.join(output_dir, "data")) for files in listed.values()
        )
        run_id = "" if reuse_training else job_id
        data_key = listed["train"].content_key
        train_dir = train_folder(config, output_dir, data_key, run_id, num_workers, libraries)
        argv = command_line(config)
        plan = {
            "train_data": train_data,
            "eval_data": eval_data,
            "train_dir": train_dir,
            "trainer_argv": argv,
        }
        storage.write_text(storage.join(run, "plan.json"), json.dumps(plan, indent=1) + "\n")
        return train_data, eval_data, train_dir, argv


@step
def train(train_data: str, train_dir: str, trainer_argv: list, num_workers: int):
    from components import learning_curve
    from components.summary import recorded
    from components.train import train
    from trainer.common import console
    from trainer.common.errors import without_traceback

    if num_workers == 1:
        console.set_up()  # loads TensorFlow; with more workers, only their own processes do
    # In its own folder, which all runs with the same inputs share, because the step may be cached.
    with without_traceback(), recorded(train_dir, "", "train"):
        if num_workers == 1:
            train(train_data, train_dir, trainer_argv)
        else:
            from components.workers import coordinator

            coordinator.train(train_data, train_dir, trainer_argv, num_workers)
        learning_curve.write(train_dir)


@step
def evaluate(
    train_dir: str,
    eval_data: str,
    data_statistics: Input[Artifact],
    vocabulary: str,
    batch_size: int,
    slice_file: str,
    confidence: float,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    metrics: Output[Metrics],
    evaluation_report: Output[HTML],
    metrics_file: Output[Artifact],
):
    from trainer.common import console, storage
    from trainer.common.errors import without_traceback

    console.set_up()  # before anything that loads TensorFlow
    from components.evaluate import evaluate
    from components.run_folder import run_folder
    from components.summary import recorded
    from components.tracking import log_evaluation

    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "evaluate"):
        folder = storage.join(run, "evaluation")
        scores = evaluate(
            train_dir,
            eval_data,
            storage.join(output_dir, "published"),
            folder,
            vocabulary=vocabulary,
            batch_size=batch_size,
            statistics_file=data_statistics.path,
            slice_file=slice_file,
            confidence=confidence,
        )
        log_evaluation(train_dir, folder, scores)
        for prefix, values in (("", scores["challenger"]), ("champion_", scores["champion"] or {})):
            for name, value in values.items():
                metrics.log_metric(prefix + name, value)
        for artifact, name in ((metrics_file, "metrics.json"), (evaluation_report, "report.html")):
            storage.write_bytes(artifact.path, storage.read_bytes(storage.join(folder, name)))


@step
def gate(
    metrics_file: Input[Artifact],
    gate_confidence: float,
    gate_min_improvement: float,
    gate_metric_margin: float,
    gate_slice_margin: float,
    gate_min_support: int,
    gate_min_gap: float,
    gate_min_hit_at_1: float,
    gate_min_perr: float,
    gate_min_map: float,
    gate_first_model: str,
    gate_force_reason: str,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    reason: OutputPath(str),
    verdict: Output[Markdown],
) -> bool:  # alone: of outputs that have names kfp's local runner takes no condition
    settings = {name: value for name, value in locals().items() if name.startswith("gate_")}

    from components.gate import decide, page
    from components.run_folder import run_folder
    from components.summary import recorded
    from trainer.common import storage
    from trainer.common.errors import without_traceback

    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "gate"):
        decision = decide(metrics_file.path, storage.join(run, "verdict.json"), **settings)
        storage.write_text(verdict.path, page(decision))
        storage.write_text(reason, decision.reason)
        print(f"{decision.outcome.capitalize()}: {decision.reason}")
        return decision.accepted


@step
def export_model(
    train_dir: str,
    eval_data: str,
    vocabulary: str,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    model: Output[Model],
):
    import tempfile

    from trainer.common import console, storage
    from trainer.common.errors import without_traceback

    console.set_up()
    from components.export_model import export
    from components.run_folder import run_folder
    from components.summary import recorded

    run = run_folder(output_dir, run_name, job_name, job_id)
    with (
        without_traceback(),
        recorded(run, job_id, "export_model"),
        tempfile.TemporaryDirectory() as folder,
    ):
        # Not to model.path at once, for the folder is renamed when it is whole: on Vertex that
        # path is in a bucket mounted as a folder, where folders cannot be renamed.
        export(train_dir, storage.join(folder, "model"), eval_data, vocabulary)
        storage.copy_tree(storage.join(folder, "model"), model.path)


@step
def publish(
    model: Input[Model],
    metrics_file: Input[Artifact],
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
) -> NamedTuple("Published", [("version", str)]):
    import json

    from components.registry.lineage import lineage
    from components.registry.registry import publish, read_champion
    from components.run_folder import run_folder
    from components.summary import recorded
    from components.tracking import log_published
    from trainer.common import storage
    from trainer.common.errors import without_traceback

    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "publish"):
        publish_dir = storage.join(output_dir, "published")
        metrics = storage.read_json(metrics_file.path)
        expected = metrics["champion_version"]
        version = publish(model.path, publish_dir, metrics_file.path, expected, lineage(run))
        published = {"version": version, "path": read_champion(publish_dir).path}
        storage.write_text(storage.join(run, "publish.json"), json.dumps(published, indent=1))
        log_published(metrics["train_dir"], published)
        print(f"Published: {published['path']}")
        return (version,)


@step
def summary(
    status: PipelineTaskFinalStatus,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    num_workers: int,
    run_summary: Output[HTML],
):
    from components.run_folder import run_folder
    from components.run_state import is_canceled
    from components.summary import summarise
    from trainer.common import storage
    from trainer.common.errors import without_traceback

    with without_traceback():
        run = run_folder(output_dir, run_name, job_name, job_id)
        state = "CANCELED" if is_canceled(job_id) else status.state
        summarise(run, job_id, state, status.error_message or "")
        page = storage.read_bytes(storage.join(run, "summary.html"))
        storage.write_bytes(run_summary.path, page)
        if num_workers > 1:  # a train step that was killed could not delete its workers
            from components.workers.cluster import delete_workers

            delete_workers(job_id)


@step
def validate_records(
    data: str,
    model_dir: str,
    vocabulary: str,
    fail_on: str,
    baseline: str,
    validation_flags: str,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    scheduled_at: str,
    data_statistics: Output[Artifact],
    validation_report: Output[HTML],
) -> NamedTuple(
    "ValidatedRecords",
    [("data", str), ("model_dir", str), ("baseline", str), ("statistics_file", str)],
):
    import logging

    from components.dates import fill_in, run_time
    from components.predict.inputs import read_record_format, resolve_model
    from components.registry.lineage import statistics_of
    from components.run_folder import run_folder
    from components.summary import recorded
    from components.validate_data.flags import parse
    from components.validate_data.references import Settings
    from components.validate_data.validation import validate
    from trainer.common import storage
    from trainer.common.errors import without_traceback
    from trainer.data import manifest

    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "validate_records"):
        # Here, once, so that all steps read the same files and use the same model.
        data = fill_in(data, run_time(scheduled_at))
        model_dir = resolve_model(model_dir, storage.join(output_dir, "published"))
        baseline = baseline or statistics_of(model_dir)
        folder = storage.join(run, "validation")
        thresholds, beam_args = parse(validation_flags)
        settings = Settings(fail_on, vocabulary, baseline, thresholds=thresholds)
        validate({"predict": data}, folder, read_record_format(model_dir), beam_args, settings)
        files = manifest.read(storage.join(folder, "predict" + manifest.SUFFIX))
        data = manifest.store(files, storage.join(output_dir, "data"))
        statistics_file = storage.join(folder, "statistics.json")
        for artifact, path in (
            (data_statistics, statistics_file),
            (validation_report, storage.join(folder, "report.html")),
        ):
            storage.write_bytes(artifact.path, storage.read_bytes(path))
        return data, model_dir, baseline, statistics_file


@step
def predict(
    data: str,
    model_dir: str,
    output_format: str,
    top_k: int,
    min_probability: float,
    batch_size: int,
    beam_options: str,
    predictions_dir: str,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
) -> NamedTuple("Predicted", [("predictions_dir", str), ("videos", int)]):
    import logging

    from trainer.common import console, storage
    from trainer.common.errors import without_traceback

    console.set_up()
    from components.predict.prediction import predict
    from components.run_folder import run_folder
    from components.summary import recorded
    from components.validate_data.beam_options import split
    from trainer.serving.options import PredictionOptions

    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "predict"):
        options = PredictionOptions(output_format, top_k, min_probability, batch_size)
        predictions_dir = predictions_dir or storage.join(run, "predictions")
        summary = predict(model_dir, data, predictions_dir, options, split(beam_options))
        videos = summary["statistics"]["videos"]
        print(f"Predictions for {videos:,} videos in {predictions_dir}.")
        return predictions_dir, videos


@step
def report_predictions(
    predictions_dir: str,
    statistics_file: str,
    baseline: str,
    vocabulary: str,
    output_dir: str,
    run_name: str,
    job_name: str,
    job_id: str,
    prediction_report: Output[HTML],
):
    from components.predict.report import write_report
    from components.run_folder import run_folder
    from components.summary import recorded
    from trainer.common import storage
    from trainer.common.errors import without_traceback

    run = run_folder(output_dir, run_name, job_name, job_id)
    with without_traceback(), recorded(run, job_id, "report_predictions"):
        write_report(predictions_dir, baseline, statistics_file, vocabulary)
        page = storage.read_bytes(storage.join(predictions_dir, "report.html"))
        storage.write_bytes(prediction_report.path, page)
