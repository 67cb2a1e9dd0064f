"""The graph of batch prediction: validate_records -> predict -> report_predictions."""

from kfp import dsl, kubernetes

from components import ops
from pipeline.graphs.common import Images, Target, configurer, described, run_inputs
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile
from trainer.serving.options import PredictionOptions

NAME = "yt8m-predict"
DEFAULTS = PredictionOptions()

GROUPS = {
    "Required": ("data", "output_dir"),
    "Data": ("vocabulary", "data_"),
    "Prediction": (),  # all others
    "Run": ("run_name",),
}


def build(images: Images, target: Target, profile: Profile | None = None):
    """Return the pipeline; arguments as pipeline.graphs.train.build.

    The step `predict` gets the resources of training: its accelerators, CPUs and memory.
    """
    profile = profile or profiles.read(profiles.DEFAULT)
    return described(_pipeline(images, target, profile), NAME, profile, GROUPS)


def _pipeline(images: Images, target: Target, profile: Profile):
    configure = configurer(target, profile)

    def predict_videos(
        data: str,
        output_dir: str,
        model_dir: str = "",
        predictions_dir: str = "",
        output_format: str = DEFAULTS.output_format,
        top_k: int = DEFAULTS.top_k,
        min_probability: float = DEFAULTS.min_probability,
        batch_size: int = DEFAULTS.batch_size,
        vocabulary: str = "",
        data_baseline: str = "",
        data_fail_on: str = "never",
        data_validation_flags: str = "",
        beam_options: str = "",
        run_name: str = "",
    ):
        """Predicts the classes of videos with the published model.

        One file of predictions is written for each input file. A run that is retried continues
        after the last complete file.

        Args:
            data: Files to predict: local or gs:// globs, comma-separated. {date}, {date:%Y/%m/%d}
                and {date-1d} become the day (UTC) for which the run was scheduled, or the day
                before.
            output_dir: Folder of the training pipeline's runs and published models (published/).
                Predictions and reports go to its runs/.
            model_dir: Exported model, or train_dir, to predict with. Empty: the published model.
            predictions_dir: Folder for the predictions. Files that it has already, of the same
                input and model, are not predicted again. Empty: in the run's folder.
            output_format: Format of the predictions: csv, the format of YouTube-8M challenge
                submissions, jsonl or parquet.
            top_k: Maximum number of classes per video.
            min_probability: Minimum probability of a class, 0 to 1.
            batch_size: Examples per batch.
            vocabulary: CSV file with the columns Index and Name, for the reports. Empty: the
                names in the model.
            data_baseline: statistics.json of a validation, to detect drift from. Empty: that of
                the training data of a published model, and none for other models.
            data_fail_on: Minimum severity of findings in the data that ends the run: error,
                warning, or never. A record that cannot be read ends it in any case.
            data_validation_flags: Thresholds for drift, and options of Apache Beam for the
                validation, as in the training pipeline.
            beam_options: Options of Apache Beam for the prediction, e.g. "--runner=DataflowRunner
                --project=... --region=... --temp_location=gs://...". Empty: in the step itself.
            run_name: Name of the run's folder in output_dir/runs. Empty: the backend's name of the
                run.
        """
        run = run_inputs(output_dir, run_name)
        validated = ops.validate_records(
            data=data,
            model_dir=model_dir,
            vocabulary=vocabulary,
            fail_on=data_fail_on,
            baseline=data_baseline,
            validation_flags=data_validation_flags,
            scheduled_at=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
            **run,
        )
        configure(validated, "Validate records", images.data, retries=1)

        predicted = ops.predict(
            data=validated.outputs["data"],
            model_dir=validated.outputs["model_dir"],
            output_format=output_format,
            top_k=top_k,
            min_probability=min_probability,
            batch_size=batch_size,
            beam_options=beam_options,
            predictions_dir=predictions_dir,
            **run,
        )
        configure(predicted, "Predict", images.trainer, profile.train.retries)
        _request_resources(predicted, target, profile)

        reported = ops.report_predictions(
            predictions_dir=predicted.outputs["predictions_dir"],
            statistics_file=validated.outputs["statistics_file"],
            baseline=validated.outputs["baseline"],
            vocabulary=vocabulary,
            **run,
        )
        configure(reported, "Report", images.data, retries=2)

    return predict_videos


def _request_resources(task, target: Target, profile: Profile):
    """Request the accelerators, CPUs and memory of training for the task."""
    train = profile.train
    task.set_memory_limit(train.memory)
    if train.accelerator_count:
        task.set_accelerator_type(train.accelerator_type[target.name])
        task.set_accelerator_limit(train.accelerator_count)
    if not target.has_kubernetes:
        task.set_cpu_limit(train.cpu)
        return
    task.set_cpu_request(train.cpu)
    task.set_memory_request(train.memory)
    if train.node_selector:
        for key, value in train.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
    for toleration in train.tolerations:
        kubernetes.add_toleration(task, **toleration)
