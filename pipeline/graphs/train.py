"""The graph: validate_data -> train -> evaluate -> gate -> (accepted) export_model -> publish."""

import inspect
import re
import typing
from dataclasses import dataclass

from kfp import dsl, kubernetes

from components import ops
from components.train import FLAGS
from pipeline.parameters import markdown_table, parameters_of
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile

NAME = "yt8m-pipeline"
DEFAULT_PROFILE = "cpu"

# Defaults that differ from the trainer's: both features of the video-level data set; and more
# frequent checkpoints, because Kubeflow's launcher does not pass on the signal by which a node says
# that it goes away.
FLAG_DEFAULTS = {
    "feature_names": "mean_rgb,mean_audio",
    "feature_sizes": "1024,128",
    "checkpoint_minutes": 5.0,
}

# Parameters that only Kubeflow can be told when a run starts.
KUBEFLOW_ONLY = ("num_workers", "train_cpu", "train_memory", "node_selector", "tolerations")


@dataclass(frozen=True)
class Images:
    """The images that hold our packages, each with what its steps need."""

    data: str  # Beam, no TensorFlow
    trainer: str  # TensorFlow


@dataclass(frozen=True)
class Target:
    """What differs from one backend to another."""

    name: str
    no_accelerator: str  # the accelerator_type to start from, with which a count of 0 is a CPU
    has_kubernetes: bool  # reads the settings of kfp-kubernetes


TARGETS = {
    "kubeflow": Target("kubeflow", no_accelerator="nvidia.com/gpu", has_kubernetes=True),
    "vertex": Target("vertex", no_accelerator="ACCELERATOR_TYPE_UNSPECIFIED", has_kubernetes=False),
}


def build(images: Images, target: Target, profile: Profile | None = None):
    """The pipeline, described by its docstring and a table of its parameters.

    Args:
        profile: What the steps ask of a cluster. None: what is in profiles/cpu.toml.
    """
    profile = profile or profiles.read(DEFAULT_PROFILE)
    # A pipeline for each profile, so that its newest version has the same profile.
    name = NAME if profile.name == DEFAULT_PROFILE else f"{NAME}-{_slug(profile.name)}"
    function = _pipeline(images, target, profile)
    function = _with_flags(function, () if target.has_kubernetes else KUBEFLOW_ONLY)
    plain = dsl.pipeline(function, name=name)
    description = f"{plain.description}\n\n{markdown_table(parameters_of(plain))}"
    return dsl.pipeline(function, name=name, description=description)


def _slug(name: str) -> str:
    """The name in the characters that Kubeflow allows in a pipeline's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def trainer_flags() -> list[str]:
    """The trainer's flags that are parameters of the pipeline: those that validate_data takes."""
    return [name for name in ops.validate_data.component_spec.inputs if name in FLAGS]


def _with_flags(function, without: tuple[str, ...] = ()):
    """Return `function` with its **flags spelled out, for kfp to read types, defaults and help.

    Args:
        function: Its last parameter is **flags.
        without: Parameters to leave out; they keep their defaults.
    """
    flags = [FLAGS[name] for name in trainer_flags() if name != "num_gpu"]
    *named, _ = inspect.signature(function).parameters.values()
    parameters = [parameter for parameter in named if parameter.name not in without]
    for flag in flags:
        default = FLAG_DEFAULTS.get(flag.name, flag.default)
        kind = next(kind for kind in (str, bool, int, float) if kind in _types(flag))
        parameters.append(
            inspect.Parameter(
                flag.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=kind() if default is None else default,
                annotation=kind,
            )
        )

    def expanded(*values):
        return function(**dict(zip(expanded.__signature__.parameters, values, strict=True)))

    expanded.__name__ = function.__name__
    expanded.__signature__ = inspect.Signature(parameters)
    lines = [f"    {flag.name}: {flag.metadata['help']}" for flag in flags]
    expanded.__doc__ = "\n".join([inspect.cleandoc(function.__doc__), *lines])
    return expanded


def _types(flag) -> tuple[type, ...]:
    """The types of a flag: (int, None) of one that is `int | None`."""
    return typing.get_args(flag.type) or (flag.type,)


def _pipeline(images: Images, target: Target, profile: Profile):
    configure = _configurer(target, profile)

    def train_and_publish(
        train_data: str,
        eval_data: str,
        output_dir: str,
        vocabulary: str = "",
        data_fail_on: str = "error",
        data_schema: str = "",
        data_baseline: str = "",
        data_max_label_linf: float = 0.02,
        data_max_label_js: float = 0.1,
        data_max_mean_shift: float = 0.25,
        beam_options: str = "",
        trainer_flags: str = "",
        reuse_training: bool = True,
        min_gap: float = 0.0,
        min_hit_at_1: float = 0.0,
        min_perr: float = 0.0,
        min_map: float = 0.0,
        min_improvement: float = 0.0,
        accelerator_type: str = profile.train.accelerator_type.get(
            target.name, target.no_accelerator
        ),
        accelerator_count: str = str(profile.train.accelerator_count),
        num_workers: int = 1,
        run_name: str = "",
        train_cpu: str = profile.train.cpu,
        train_memory: str = profile.train.memory,
        node_selector: dict = profile.train.node_selector,
        tolerations: list = profile.train.tolerations,
        **flags,
    ):
        """Trains a video classifier on YouTube-8M records, and publishes it if it is better.

        The data is checked; a model is trained, and evaluated beside the published one on the
        same videos; the gate decides. A model that it rejects ends the run well, unpublished,
        with the reason written down.

        Args:
            train_data: Files to train on: local or gs:// globs, comma-separated. {date},
                {date:%Y/%m/%d} and {date-1d} become the day (UTC) for which the run was scheduled,
                or the day before.
            eval_data: Files to evaluate on, likewise. They must share no video with train_data.
            output_dir: Folder that keeps checkpoints (train/), reports (runs/) and published models
                (published/) from run to run: local, gs://, or on a volume that all steps mount.
            vocabulary: CSV file with the columns Index and Name, for the names of the classes.
                Empty: classes go by their number.
            data_fail_on: The least severe findings in the data that end the run: error, warning, or
                never.
            data_schema: schema.pbtxt to hold the data to, e.g. one that an earlier run's validation
                wrote. Empty: none.
            data_baseline: statistics.json of an earlier run's validation, to warn of drift from.
                Empty: none.
            data_max_label_linf: Largest difference of a class's share of the labels, 0 to 1, that
                is no drift: between eval_data and train_data, and from the baseline.
            data_max_label_js: Largest Jensen-Shannon distance of the labels that is no drift, 0
                to 1.
            data_max_mean_shift: Largest shift of the mean of a feature's dimension that is no
                drift, in standard deviations.
            beam_options: Options of Apache Beam for the validation, e.g. "--runner=DataflowRunner
                --project=... --region=... --temp_location=gs://...". Empty: in the step itself.
            trainer_flags: Further flags of the trainer, as on its command line, e.g.
                "--seed=1 --num_readers=4".
            reuse_training: Resume or reuse what a run with the same data, flags and code trained.
                false: train a new model.
            min_gap: Least GAP that is accepted, 0 to 1.
            min_hit_at_1: Least Hit@1 that is accepted, 0 to 1.
            min_perr: Least PERR that is accepted, 0 to 1.
            min_map: Least mAP that is accepted, 0 to 1.
            min_improvement: By how much its GAP must beat that of the published model. 0: by
                anything above nothing.
            accelerator_type: What to train on, as the cluster calls it, e.g. nvidia.com/gpu on
                Kubeflow, NVIDIA_L4 on Vertex.
            accelerator_count: Number of accelerators, e.g. "1". "0" trains on the CPU. Training
                fails at startup if it finds fewer.
            num_workers: Number of pods that train together, each with these accelerators, CPUs and
                memory. The global batch has batch_size videos for each accelerator of each worker.
            run_name: Name of the run's folder in output_dir/runs, in place of an older one. Empty:
                what the backend calls the run.
            train_cpu: CPUs that are kept for training, e.g. 500m or 6.
            train_memory: Memory that is kept for training, of which it gets no more, e.g. 24Gi.
            node_selector: Labels of the nodes that may train, in JSON, e.g.
                {"cloud.google.com/gke-spot": "true"}.
            tolerations: Taints of nodes that may train in spite of them, in JSON, as a pod has
                them.
        """
        run = {
            "output_dir": output_dir,
            "run_name": run_name,
            # Alone, not as part of a text: Kubeflow fills in a placeholder only where it is all.
            "job_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            "job_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        }
        summary = ops.summary(num_workers=num_workers, **run)
        configure(summary, "Summary", images.data, retries=2)

        with dsl.ExitHandler(summary, name="train-and-publish"):
            validated = ops.validate_data(
                train_data=train_data,
                eval_data=eval_data,
                vocabulary=vocabulary,
                fail_on=data_fail_on,
                schema=data_schema,
                baseline=data_baseline,
                max_label_linf=data_max_label_linf,
                max_label_js=data_max_label_js,
                max_mean_shift=data_max_mean_shift,
                beam_options=beam_options,
                scheduled_at=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
                reuse_training=reuse_training,
                trainer_flags=trainer_flags,
                num_gpu=accelerator_count,
                num_workers=num_workers,
                **flags,
                **run,
            )
            configure(validated, "Validate data", images.data, retries=1)

            trained = ops.train(
                train_data=validated.outputs["train_data"],
                train_dir=validated.outputs["train_dir"],
                trainer_argv=validated.outputs["trainer_argv"],
                num_workers=num_workers,
            )
            # The one step that may be cached: train_dir stands for the data, flags and code.
            configure(trained, "Train", images.trainer, profile.train.retries, cache=True)
            # Its own resources, in place of those of the other steps.
            trained.set_accelerator_type(accelerator_type)
            # A string: Kubeflow's driver ignores a count of any other type.
            trained.set_accelerator_limit(accelerator_count)
            trained.set_memory_limit(train_memory)
            # kfp hands down to a step only what it takes as an input, which these are not.
            trained.register_pipeline_channels([accelerator_type, accelerator_count])
            if target.has_kubernetes:
                trained.set_cpu_request(train_cpu)
                trained.set_memory_request(train_memory)
                trained.register_pipeline_channels([train_cpu, train_memory])
                kubernetes.add_node_selector_json(trained, node_selector)
                kubernetes.add_toleration_json(trained, tolerations)
                # A pod's own /dev/shm is 64 MiB, too little for GPUs to talk to each other.
                size = profile.train.shared_memory
                kubernetes.empty_dir_mount(trained, "shm", "/dev/shm", "Memory", size)
            else:
                trained.set_cpu_limit(train_cpu)  # by which Vertex AI chooses a machine

            evaluated = ops.evaluate(
                train_dir=validated.outputs["train_dir"],
                eval_data=validated.outputs["eval_data"],
                vocabulary=vocabulary,
                batch_size=flags["batch_size"],
                **run,
            )
            evaluated.after(trained)
            configure(evaluated, "Evaluate", images.trainer, retries=2)

            verdict = ops.gate(
                metrics_file=evaluated.outputs["metrics_file"],
                min_gap=min_gap,
                min_hit_at_1=min_hit_at_1,
                min_perr=min_perr,
                min_map=min_map,
                min_improvement=min_improvement,
                **run,
            )
            configure(verdict, "Gate", images.data, retries=2)

            with dsl.If(verdict.outputs["Output"] == True, name="accepted"):  # noqa: E712
                exported = ops.export_model(
                    train_dir=validated.outputs["train_dir"], vocabulary=vocabulary, **run
                )
                configure(exported, "Export model", images.trainer, retries=2)

                published = ops.publish(
                    model=exported.outputs["model"],
                    metrics_file=evaluated.outputs["metrics_file"],
                    **run,
                )
                configure(published, "Publish", images.data, retries=3)

    return train_and_publish


def _configurer(target: Target, profile: Profile):
    """Return the function that sets what every step has: its name, image, retries and resources."""

    def configure(task, display_name: str, image: str, retries: int, cache: bool = False):
        task.set_display_name(display_name)
        task.set_container_image(image)
        task.set_caching_options(cache)
        # After 30 s, 1 min, 2 min and so on. kfp's longest backoff counts from the start of the
        # first try, and includes the tries themselves: after it, none is made or goes on.
        task.set_retry(
            retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="30d"
        )
        if not target.has_kubernetes:
            task.set_cpu_limit(profile.other_steps.cpu)
            task.set_memory_limit(profile.other_steps.memory)
            return
        task.set_cpu_request(profile.other_steps.cpu)
        task.set_memory_request(profile.other_steps.memory)
        kubernetes.set_security_context(task, run_as_non_root=True)
        if profile.volume:
            kubernetes.mount_pvc(task, profile.volume.claim, profile.volume.path)

    return configure
