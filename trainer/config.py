"""The trainer's flags.

Models and optimizers declare their own in their registries; all others are here.
"""

from dataclasses import dataclass, fields

from trainer.common.command_line import flag
from trainer.common.errors import UserError
from trainer.common.flags import (
    as_dataclass,
    at_least_one,
    fraction,
    not_negative,
    one_of,
    positive,
    seed,
)
from trainer.data.records import NUM_CLASSES, RecordFormat, record_format
from trainer.models import registry as models
from trainer.training.registry import LOSSES, OPTIMIZERS

_MODEL_FLAGS = [flag for entry in models.MODELS.values() for flag in entry.flags]
_OPTIMIZER_FLAGS = [flag for entry in OPTIMIZERS.values() for flag in entry.flags]
RegisteredFlags = as_dataclass(
    "RegisteredFlags", {"Model": _MODEL_FLAGS, "Optimizer": _OPTIMIZER_FLAGS}
)

# The flags that shape the model: saved with its weights, and fixed for its lifetime.
MODEL_FLAGS = (
    "model",
    "feature_names",
    "feature_sizes",
    "frame_features",
    "num_classes",
    "calibration_fraction",
    *dict.fromkeys(flag.name for flag in _MODEL_FLAGS),
)


@dataclass(frozen=True)
class GeneralFlags:
    """Flags that do not depend on the model or the optimizer."""

    train_dir: str = flag(
        "/tmp/yt8m_model/", "Directory to save the model files in, local or gs://.", "Files"
    )
    train_data_pattern: str | None = flag(
        None,
        "File glob(s) for the training dataset, comma-separated. Frame-level files "
        "(tf.SequenceExample) need --frame_features.",
        "Files",
    )
    start_new_model: bool = flag(
        False,
        "Do not resume from a checkpoint: remove those in --train_dir and start a new model. Only "
        "an unfinished run with the same flags is resumed nevertheless: this is its retry.",
        "Files",
    )

    feature_names: str = flag(
        "mean_rgb", "Name(s) of the feature(s) to train on, comma-separated.", "Data"
    )
    feature_sizes: str = flag("1024", "Length(s) of the feature vectors, comma-separated.", "Data")
    frame_features: bool = flag(
        False,
        "Whether the data is frame-level, with batches of 3-D features, instead of video-level, "
        "with 2-D features.",
        "Data",
    )
    num_classes: int = flag(
        NUM_CLASSES,
        "Number of classes. Class ids run from 0 to num_classes - 1.",
        "Data",
        at_least_one,
    )
    num_readers: int = flag(8, "Number of input files to read in parallel.", "Data", at_least_one)

    model: str = flag(
        "LogisticModel",
        f"Model. For video-level features: {', '.join(models.names(frame_level=False))}. "
        f"For frame-level features: {', '.join(models.names(frame_level=True))}.",
        "Model",
        one_of(models.MODELS),
    )
    batch_size: int = flag(1024, "Examples per batch (per GPU).", "Training", at_least_one)
    num_epochs: int = flag(
        5,
        "Number of passes over the dataset, including those before a resume.",
        "Training",
        at_least_one,
    )
    max_steps: int | None = flag(
        None,
        "Maximum number of training steps, including those before a resume.",
        "Training",
        not_negative,
    )
    label_loss: str = flag(
        "CrossEntropyLoss", f"Label loss: {', '.join(LOSSES)}.", "Training", one_of(LOSSES)
    )
    regularization_penalty: float = flag(
        1.0, "Weight of the regularization loss (the label loss has 1).", "Training", not_negative
    )
    optimizer: str = flag(
        "AdamOptimizer",
        f"Optimizer: {', '.join(OPTIMIZERS)}.",
        "Training",
        one_of(OPTIMIZERS),
    )
    base_learning_rate: float = flag(0.01, "Learning rate to start with.", "Training", positive)
    learning_rate_decay: float = flag(
        0.95, "Factor applied every --learning_rate_decay_examples.", "Training", positive
    )
    learning_rate_decay_examples: float = flag(
        4000000.0, "Number of examples between two decays.", "Training", positive
    )
    learning_rate_schedule: str = flag(
        "staircase",
        "Learning rate schedule: staircase, the decay above; or cosine, which decays every epoch "
        "and approaches 0 at the end of --num_epochs.",
        "Training",
        one_of(("staircase", "cosine")),
    )
    warmup_steps: int = flag(
        0,
        "Number of steps in which the learning rate first grows linearly; 0 disables warm-up.",
        "Training",
        not_negative,
    )
    mixup: float = flag(
        0.0,
        "Parameter of the Beta distribution of mixup, which trains on mixtures of two videos and "
        "of their losses; 0 disables it. For video-level features.",
        "Training",
        not_negative,
    )
    calibration_fraction: float = flag(
        0.0,
        "Fraction of the training videos to hold out for recalibrating the predictions after "
        "training, by class frequency and by video; 0 disables recalibration.",
        "Training",
        fraction,
    )
    teacher_dir: str = flag(
        "",
        "Directory of a trained KernelModel, local or gs://, whose leave-one-out predictions are "
        "soft targets.",
        "Training",
    )
    teacher_weight: float = flag(
        0.5,
        "Weight of the soft targets of --teacher_dir; the labels have the rest.",
        "Training",
        not_negative,
    )
    ema_decay: float = flag(
        0.0,
        "Decay per step of an exponential moving average of the weights, which then replaces the "
        "weights in evaluation and export; 0 disables it.",
        "Training",
        fraction,
    )
    clip_gradient_norm: float = flag(
        1.0,
        "L2 norm that each variable's gradient is clipped to; 0 disables clipping.",
        "Training",
        not_negative,
    )
    mixed_precision: bool = flag(
        False,
        "Multiply matrices in bfloat16; weights, sums and losses stay float32. Faster on GPUs "
        "and on CPUs with AVX512_BF16 or AMX.",
        "Training",
    )
    xla: bool = flag(
        False,
        "Compile the whole step with XLA, on one device. Without it, XLA compiles the head and the "
        "loss alone. On CPUs it is slower.",
        "Training",
    )
    seed: int = flag(
        0, "Random seed of the initial weights and of the order of the examples.", "Training", seed
    )

    skip_bad_records: bool = flag(
        False, "Skip and count records that cannot be read, instead of failing.", "Data"
    )
    skip_bad_batches: bool = flag(
        False,
        "Skip batches whose loss or gradient is NaN or infinite, instead of failing.",
        "Training",
    )

    export_model_steps: int = flag(
        1000,
        "Number of steps between checkpoints and exports of the model for batch prediction.",
        "Saving",
        at_least_one,
    )
    keep_checkpoints: int = flag(
        3, "Number of checkpoints and of exports to keep.", "Saving", at_least_one
    )

    checkpoint_minutes: float = flag(
        15.0, "Also write a checkpoint after this many minutes.", "Saving", positive
    )

    log_format: str = flag(
        "text",
        "Format of log lines: text, or json, one object per line.",
        "Logging",
        one_of(("text", "json")),
    )

    num_gpu: int = flag(
        1, "Maximum number of GPUs to use, if there are any.", "Devices", not_negative
    )
    require_gpu: bool = flag(
        False, "Fail at startup if fewer than --num_gpu GPUs are found.", "Devices"
    )
    log_device_placement: bool = flag(
        False, "Log the device of every operation at startup.", "Devices"
    )


@dataclass(frozen=True)
class TrainConfig(RegisteredFlags, GeneralFlags):
    """Train a video classifier on YouTube-8M records, resuming from --train_dir.

    Raises:
        UserError: a value is out of its range.
    """

    def __post_init__(self):
        for field in fields(self):
            value, check = getattr(self, field.name), field.metadata["check"]
            expected = check(value) if check and value is not None else None
            if expected:
                raise UserError(f"--{field.name} {expected}; got {value!r}.")
        if self.xla and self.num_gpu > 1:
            raise UserError(f"--xla needs --num_gpu=1; got --num_gpu={self.num_gpu}.")
        self._check_level()
        if self.mixup and self.frame_features:
            raise UserError(
                f"--mixup needs video-level features; got --mixup={self.mixup} with "
                "--frame_features."
            )
        _ = self.record_format  # raises a UserError if the features are invalid

    def _check_level(self):
        """Check that the model takes features of the level that the data has."""
        frame_level = models.MODELS[self.model].frame_level
        if self.frame_features != frame_level:
            raise UserError(
                f"--model={self.model} takes {'frame' if frame_level else 'video'}-level features; "
                f"got --{'' if self.frame_features else 'no'}frame_features. Say "
                f"--{'' if frame_level else 'no'}frame_features, or choose one of "
                f"{models.names(self.frame_features)}."
            )

    @property
    def record_format(self) -> RecordFormat:
        """Format of the records of the dataset."""
        return record_format(self.model_flags)

    @property
    def model_flags(self) -> dict:
        """Flags that shape the model, name -> value."""
        return {name: getattr(self, name) for name in MODEL_FLAGS}

    @property
    def optimizer_flags(self) -> dict:
        """Hyperparameters of the optimizer, name -> value."""
        return {flag.name: getattr(self, flag.name) for flag in OPTIMIZERS[self.optimizer].flags}
