"""The graph: validate_data -> train -> evaluate -> gate -> (accepted) export_model -> publish."""

import inspect
import typing
from dataclasses import asdict

from kfp import dsl, kubernetes

from components import ops
from components.train import FLAGS
from components.workers.manifests import QUEUE_LABEL
from pipeline import package
from pipeline.graphs.common import Images, Target, configurer, described, run_inputs
from pipeline.profiles import profile as profiles
from pipeline.profiles.profile import Profile

NAME = "yt8m-pipeline"

# Defaults that differ from the trainer's: both features of the video-level data set.
FLAG_DEFAULTS = {
    "feature_names": "mean_rgb,mean_audio",
    "feature_sizes": "1024,128",
}

# Parameters that only Kubeflow can be told when a run starts.
KUBEFLOW_ONLY = ("num_workers", "node_cpu", "node_memory", "node_selector", "node_tolerations")

# Groups of parameters in the description: title -> names, or prefixes that end with an underscore.
# Kubeflow's form sorts parameters by name and shows no descriptions, so a group has a prefix unless
# its parameters are flags of the trainer, which keep their names.
GROUPS = {
    "Required": ("train_data", "eval_data", "output_dir"),
    "Data": (
        "vocabulary",
        "feature_names",
        "feature_sizes",
        "frame_features",
        "num_classes",
        "data_",
    ),
    "Training": (),  # all others
    "Evaluation and gate": ("eval_slice_file", "gate_"),
    "Resources of the training step": ("accelerator_", "num_workers", "node_"),
    "Run": ("run_name", "reuse_training"),
}


def build(images: Images, target: Target, profile: Profile | None = None):
    """The pipeline, described by its docstring and a list of its parameters.

    Args:
        profile: What the steps ask of a cluster. None: what is in profiles/cpu.toml.
    """
    profile = profile or profiles.read(profiles.DEFAULT)
    function = _pipeline(images, target, profile)
    function = _with_flags(function, () if target.has_kubernetes else KUBEFLOW_ONLY)
    return described(function, NAME, profile, GROUPS)


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
    configure = configurer(target, profile)

    def train_and_publish(
        train_data: str,
        eval_data: str,
        output_dir: str,
        vocabulary: str = "",
        data_fail_on: str = "error",
        data_schema: str = "",
        data_baseline: str = "",
        data_validation_flags: str = "",
        trainer_flags: str = "",
        reuse_training: bool = True,
        eval_slice_file: str = "",
        gate_confidence: float = 0.95,
        gate_min_improvement: float = 0.001,
        gate_metric_margin: float = 0.005,
        gate_slice_margin: float = 0.01,
        gate_min_support: int = 100,
        gate_min_gap: float = 0.0,
        gate_min_hit_at_1: float = 0.0,
        gate_min_perr: float = 0.0,
        gate_min_map: float = 0.0,
        gate_first_model: str = "minimums",
        gate_force_reason: str = "",
        accelerator_type: str = profile.train.accelerator_type.get(
            target.name, target.no_accelerator
        ),
        accelerator_count: str = str(profile.train.accelerator_count),
        num_workers: int = 1,
        run_name: str = "",
        node_cpu: str = profile.train.cpu,
        node_memory: str = profile.train.memory,
        node_selector: dict = profile.train.node_selector,
        node_tolerations: list = profile.train.tolerations,
        **flags,
    ):
        """Train a video classifier on YouTube-8M records and publish it if it is better.

        The pipeline validates the data, trains a model, evaluates it and the published model on
        the same videos, and publishes the new model if the gate accepts it. A run whose model is
        rejected succeeds too. The step **Summary** shows the result of the run: the decision and
        its reason, the metrics of both models, and links to all reports.

        Args:
            train_data: Training files: local or gs:// globs, comma-separated. {date},
                {date:%Y/%m/%d} and {date-1d} stand for the day (UTC) for which the run was
                scheduled, or the day before.
            eval_data: Evaluation files, in the same form. They must share no video with train_data.
            output_dir: Folder for checkpoints (train/), reports (runs/) and published models
                (published/), shared by all runs: local, gs://, or on a volume that all steps mount.
            vocabulary: CSV file with the columns Index and Name, for the names of the classes.
                Empty: reports show class ids.
            data_fail_on: Minimum severity of findings in the data that fails the run: error,
                warning or never.
            data_schema: schema.pbtxt that the data must conform to, e.g. that of an earlier run's
                validation. Empty: none.
            data_baseline: statistics.json of an earlier run's validation, to detect drift. Empty:
                that of the published model's training data.
            data_validation_flags: Further flags of the validation, e.g. "--max_label_linf=0.05",
                or Apache Beam's, e.g. "--runner=DataflowRunner --project=... --region=...
                --temp_location=gs://...". Empty: Beam runs in the step itself.
            trainer_flags: Further flags of the trainer, e.g. "--max_steps=1000 --seed=1". `python
                -m trainer.train --help` lists them.
            reuse_training: Resume or reuse the training of an earlier run with the same data, flags
                and code. false: train a new model.
            eval_slice_file: CSV file with the columns id and slice, to compare the models on these
                slices of the evaluation videos too. Empty: none.
            gate_confidence: Confidence level of the intervals and of all comparisons with the
                published model.
            gate_min_improvement: Minimum improvement of GAP over the published model, which must be
                significant too. Another seed alone changes GAP by almost 0.001.
            gate_metric_margin: No metric may be significantly worse than the published model's by
                more than this.
            gate_slice_margin: In no slice may GAP be significantly worse than the published
                model's by more than this.
            gate_min_support: Minimum number of evaluation videos for a comparison; slices with
                fewer are not compared.
            gate_min_gap: Minimum GAP, from 0 to 1.
            gate_min_hit_at_1: Minimum Hit@1, from 0 to 1.
            gate_min_perr: Minimum PERR, from 0 to 1.
            gate_min_map: Minimum mAP, from 0 to 1.
            gate_first_model: Policy where no model is published yet. minimums: GAP must exceed that
                of ranking the classes by their frequency; accept: it need not. Minimums that are
                set apply in any case.
            gate_force_reason: Publish the model whatever the rules say, for this reason, which is
                recorded. Empty: the rules decide.
            accelerator_type: Type of accelerator, e.g. nvidia.com/gpu on Kubeflow, NVIDIA_L4 on
                Vertex AI.
            accelerator_count: Number of accelerators, e.g. "1". "0" trains on the CPU. Training
                fails at startup if it finds fewer.
            num_workers: Number of pods that train together, each with these accelerators, CPUs and
                memory. The global batch has batch_size videos for each accelerator of each worker.
            run_name: Begins the name of the run's folder in output_dir/runs, which ends with the id
                that the backend gave the run. Empty: the backend's name of the run.
            node_cpu: Number of CPUs to request, e.g. 500m or 6.
            node_memory: Memory to request, which is also the limit, e.g. 24Gi.
            node_selector: Labels that the node must have, in JSON, e.g.
                {"cloud.google.com/gke-spot": "true"}.
            node_tolerations: Taints of the node to tolerate, in JSON, as in a pod's specification.
        """
        run = run_inputs(output_dir, run_name)
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
                validation_flags=data_validation_flags,
                scheduled_at=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER,
                reuse_training=reuse_training,
                trainer_flags=trainer_flags,
                num_gpu=accelerator_count,
                num_workers=num_workers,
                commit=package.commit(),
                libraries=package.library_versions(),
                images=asdict(images),
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
            # The one step that may be cached: train_dir stands for the data, flags, code and
            # libraries. But a tag may name other code tomorrow.
            configure(
                trained, "Train", images.trainer, profile.train.retries, cache=images.are_pinned
            )
            # Its own resources, in place of those of the other steps.
            trained.set_accelerator_type(accelerator_type)
            # A string: Kubeflow's driver ignores a count of any other type.
            trained.set_accelerator_limit(accelerator_count)
            trained.set_memory_limit(node_memory)
            # kfp hands down to a step only what it takes as an input, which these are not.
            trained.register_pipeline_channels([accelerator_type, accelerator_count])
            if target.has_kubernetes:
                trained.set_cpu_request(node_cpu)
                trained.set_memory_request(node_memory)
                trained.register_pipeline_channels([node_cpu, node_memory])
                kubernetes.add_node_selector_json(trained, node_selector)
                kubernetes.add_toleration_json(trained, node_tolerations)
                # A pod's own /dev/shm is 64 MiB, too little for GPUs to talk to each other.
                size = profile.train.shared_memory
                kubernetes.empty_dir_mount(trained, "shm", "/dev/shm", "Memory", size)
                if profile.train.queue:
                    kubernetes.add_pod_label(trained, QUEUE_LABEL, profile.train.queue)
            else:
                trained.set_cpu_limit(node_cpu)  # by which Vertex AI chooses a machine

            evaluated = ops.evaluate(
                train_dir=validated.outputs["train_dir"],
                eval_data=validated.outputs["eval_data"],
                data_statistics=validated.outputs["data_statistics"],
                vocabulary=vocabulary,
                batch_size=flags["batch_size"],
                slice_file=eval_slice_file,
                confidence=gate_confidence,
                **run,
            )
            evaluated.after(trained)
            configure(evaluated, "Evaluate", images.trainer, retries=2)

            verdict = ops.gate(
                metrics_file=evaluated.outputs["metrics_file"],
                gate_confidence=gate_confidence,
                gate_min_improvement=gate_min_improvement,
                gate_metric_margin=gate_metric_margin,
                gate_slice_margin=gate_slice_margin,
                gate_min_support=gate_min_support,
                gate_min_gap=gate_min_gap,
                gate_min_hit_at_1=gate_min_hit_at_1,
                gate_min_perr=gate_min_perr,
                gate_min_map=gate_min_map,
                gate_first_model=gate_first_model,
                gate_force_reason=gate_force_reason,
                **run,
            )
            configure(verdict, "Gate", images.data, retries=2)

            with dsl.If(verdict.outputs["Output"] == True, name="accepted"):  # noqa: E712
                exported = ops.export_model(
                    train_dir=validated.outputs["train_dir"],
                    eval_data=validated.outputs["eval_data"],
                    vocabulary=vocabulary,
                    **run,
                )
                configure(exported, "Export model", images.trainer, retries=2)

                published = ops.publish(
                    model=exported.outputs["model"],
                    metrics_file=evaluated.outputs["metrics_file"],
                    **run,
                )
                configure(published, "Publish", images.data, retries=3)

    return train_and_publish
