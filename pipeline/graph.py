"""The graph: validate_data -> train -> evaluate -> gate -> (accepted) export_model -> publish."""

import inspect
from dataclasses import dataclass

from kfp import dsl, kubernetes

from components import ops
from pipeline import profile as profiles
from pipeline.parameters import markdown_table, parameters_of
from pipeline.profile import Profile

NAME = "yt8m-pipeline"
DEFAULT_PROFILE = "cpu"
# Parameters that only Kubeflow can be told when a run starts; the last of the pipeline's.
OF_KUBEFLOW = ("train_cpu", "train_memory", "node_selector", "tolerations")


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
    function = _pipeline(images, target, profile or profiles.read(DEFAULT_PROFILE))
    if not target.has_kubernetes:
        _leave_out(function, OF_KUBEFLOW)
    plain = dsl.pipeline(function, name=NAME)
    description = f"{plain.description}\n\n{markdown_table(parameters_of(plain))}"
    return dsl.pipeline(function, name=NAME, description=description)


def _leave_out(function, names: tuple[str, ...]):
    """Hides a function's last parameters, of these names, which keep their defaults."""
    signature = inspect.signature(function)
    shown = [p for name, p in signature.parameters.items() if name not in names]
    function.__signature__ = signature.replace(parameters=shown)


def _pipeline(images: Images, target: Target, profile: Profile):
    def train_and_publish(
        train_data: str,
        eval_data: str,
        output_dir: str,
        vocabulary: str = "",
        feature_names: str = "mean_rgb,mean_audio",
        feature_sizes: str = "1024,128",
        frame_features: bool = False,
        num_classes: int = 3862,
        data_fail_on: str = "error",
        data_schema: str = "",
        data_baseline: str = "",
        data_max_label_linf: float = 0.02,
        data_max_label_js: float = 0.1,
        data_max_mean_shift: float = 0.25,
        beam_options: str = "",
        model: str = "LogisticModel",
        moe_num_mixtures: int = 2,
        batch_size: int = 1024,
        num_epochs: int = 5,
        max_steps: int = 0,
        label_loss: str = "CrossEntropyLoss",
        regularization_penalty: float = 1.0,
        optimizer: str = "AdamOptimizer",
        base_learning_rate: float = 0.01,
        learning_rate_decay: float = 0.95,
        learning_rate_decay_examples: float = 4000000.0,
        clip_gradient_norm: float = 1.0,
        export_model_steps: int = 1000,
        trainer_flags: str = "",
        min_gap: float = 0.0,
        min_hit_at_1: float = 0.0,
        min_perr: float = 0.0,
        min_map: float = 0.0,
        min_improvement: float = 0.0,
        accelerator_type: str = profile.train.accelerator_type.get(
            target.name, target.no_accelerator
        ),
        accelerator_count: str = str(profile.train.accelerator_count),
        run_name: str = "",
        train_cpu: str = profile.train.cpu,
        train_memory: str = profile.train.memory,
        node_selector: dict = profile.train.node_selector,
        tolerations: list = profile.train.tolerations,
    ):
        """Trains a video classifier on YouTube-8M records, and publishes it if it is better.

        The data is checked; a model is trained, and evaluated beside the published one on the
        same videos; the gate decides. A model that it rejects ends the run well, unpublished,
        with the reason written down.

        Args:
            train_data: Files to train on: local or gs:// globs, comma-separated. {date},
                {date:%Y/%m/%d} and {date-1d} become the day (UTC) of the run, or one before.
            eval_data: Files to evaluate on, likewise. They must share no video with train_data.
            output_dir: Folder that keeps checkpoints (train/), reports (runs/) and published models
                (published/) from run to run: local, gs://, or on a volume that all steps mount.
            vocabulary: CSV file with the columns Index and Name, for the names of the classes.
                Empty: classes go by their number.
            feature_names: Names of the features to train on, comma-separated.
            feature_sizes: Lengths of their vectors, comma-separated.
            frame_features: The data is frame-level (tf.SequenceExample).
            num_classes: Number of classes; labels are 0 to this less 1.
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
            model: Which architecture, e.g. LogisticModel or MoeModel.
            moe_num_mixtures: Experts a class in MoeModel.
            batch_size: Videos per batch (and per accelerator).
            num_epochs: Passes over train_data.
            max_steps: Most steps to train for. 0: as many as the epochs take.
            label_loss: Which loss.
            regularization_penalty: Weight of the regularization loss (the label loss has 1).
            optimizer: Which optimizer.
            base_learning_rate: Learning rate to start with.
            learning_rate_decay: Factor applied every learning_rate_decay_examples.
            learning_rate_decay_examples: Examples between two decays.
            clip_gradient_norm: L2 norm to clip each variable's gradient to. 0: no clipping.
            export_model_steps: Steps between two checkpoints, from which a killed training goes
                on.
            trainer_flags: Further flags of the trainer, as on its command line, e.g.
                "--seed=1 --num_readers=4".
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
        data_format = {
            "feature_names": feature_names,
            "feature_sizes": feature_sizes,
            "frame_features": frame_features,
            "num_classes": num_classes,
        }

        summary = ops.summary(**run)
        _settings(summary, "Summary", images.data, retries=2)

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
                **data_format,
                **run,
            )
            _settings(validated, "Validate data", images.data, retries=1)

            trained = ops.train(
                train_data=validated.outputs["train_data"],
                data_fingerprint=validated.outputs["fingerprint"],
                output_dir=output_dir,
                model=model,
                moe_num_mixtures=moe_num_mixtures,
                batch_size=batch_size,
                num_epochs=num_epochs,
                max_steps=max_steps,
                label_loss=label_loss,
                regularization_penalty=regularization_penalty,
                optimizer=optimizer,
                base_learning_rate=base_learning_rate,
                learning_rate_decay=learning_rate_decay,
                learning_rate_decay_examples=learning_rate_decay_examples,
                clip_gradient_norm=clip_gradient_norm,
                export_model_steps=export_model_steps,
                num_gpu=accelerator_count,
                trainer_flags=trainer_flags,
                **data_format,
            )
            # The one step that may be cached: its inputs hold the fingerprint of the data.
            _settings(trained, "Train", images.trainer, profile.train.retries, cache=True)
            trained.set_accelerator_type(accelerator_type)
            # A string: Kubeflow's driver ignores a count of any other type.
            trained.set_accelerator_limit(accelerator_count)
            trained.set_memory_limit(train_memory)
            # kfp hands down to a step only what it takes as an input, which the type is not.
            trained.register_pipeline_channels([accelerator_type])
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
                train_dir=trained.outputs["train_dir"],
                eval_data=validated.outputs["eval_data"],
                vocabulary=vocabulary,
                batch_size=batch_size,
                **run,
            )
            _settings(evaluated, "Evaluate", images.trainer, retries=2)

            verdict = ops.gate(
                metrics_file=evaluated.outputs["metrics_file"],
                min_gap=min_gap,
                min_hit_at_1=min_hit_at_1,
                min_perr=min_perr,
                min_map=min_map,
                min_improvement=min_improvement,
                **run,
            )
            _settings(verdict, "Gate", images.data, retries=2)

            with dsl.If(verdict.outputs["Output"] == True, name="accepted"):  # noqa: E712
                exported = ops.export_model(
                    train_dir=trained.outputs["train_dir"], vocabulary=vocabulary, **run
                )
                _settings(exported, "Export model", images.trainer, retries=2)

                published = ops.publish(
                    model=exported.outputs["model"],
                    metrics_file=evaluated.outputs["metrics_file"],
                    **run,
                )
                _settings(published, "Publish", images.data, retries=3)

        for task in (summary, validated, evaluated, verdict, exported, published):
            _resources(task, target, profile.other_steps)
        if profile.volume and target.has_kubernetes:
            for task in (summary, validated, trained, evaluated, verdict, exported, published):
                kubernetes.mount_pvc(task, profile.volume.claim, profile.volume.path)

    return train_and_publish


def _settings(task, display_name: str, image: str, retries: int, cache: bool = False):
    task.set_display_name(display_name)
    task.set_container_image(image)
    task.set_caching_options(cache)
    # After 30 s, 1 min, 2 min and so on. What kfp calls the longest backoff counts from the start
    # of the first try, and tries count too: after it none is made, and one that runs is ended.
    task.set_retry(retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="30d")


def _resources(task, target: Target, step: profiles.OtherSteps):
    if target.has_kubernetes:
        task.set_cpu_request(step.cpu)
        task.set_memory_request(step.memory)
    else:
        task.set_cpu_limit(step.cpu)
        task.set_memory_limit(step.memory)
