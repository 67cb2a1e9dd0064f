"""The trainer's flags: one table, read once, passed on."""

from dataclasses import dataclass

from trainer.common.command_line import flag
from trainer.common.errors import UserError
from trainer.data.records import NUM_CLASSES, RecordFormat, parse_features

# The flags that shape the model: saved beside its weights, and the same for as long as it lives.
MODEL_FLAGS = (
    "model",
    "feature_names",
    "feature_sizes",
    "frame_features",
    "num_classes",
    "moe_num_mixtures",
    "video_level_classifier_model",
    "iterations",
    "sample_random_frames",
    "dbof_add_batch_norm",
    "dbof_cluster_size",
    "dbof_hidden_size",
    "dbof_pooling_method",
    "dbof_activation",
    "lstm_cells",
    "lstm_layers",
    "gru_cells",
    "gru_layers",
    "vlad_cluster_size",
    "nextvlad_groups",
    "nextvlad_expansion",
    "attention_heads",
    "pooling_hidden_size",
    "pooling_dropout",
)

# What may be named, written here too so that a wrong name is found before TensorFlow is loaded.
VIDEO_LEVEL_MODELS = ("LogisticModel", "MoeModel")
FRAME_LEVEL_MODELS = (
    "AttentionModel",
    "DbofModel",
    "FrameLevelLogisticModel",
    "GruModel",
    "LstmModel",
    "NetVladModel",
    "NeXtVladModel",
)
LOSSES = ("CrossEntropyLoss", "HingeLoss", "SoftmaxLoss")
OPTIMIZERS = (
    "AdadeltaOptimizer",
    "AdagradOptimizer",
    "AdamOptimizer",
    "AdamWOptimizer",
    "FtrlOptimizer",
    "GradientDescentOptimizer",
    "MomentumOptimizer",
    "ProximalAdagradOptimizer",
    "ProximalGradientDescentOptimizer",
    "RMSPropOptimizer",
)
CHOICES = {
    "model": VIDEO_LEVEL_MODELS + FRAME_LEVEL_MODELS,
    "label_loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "video_level_classifier_model": ("LogisticModel", "MoeModel"),
    "dbof_pooling_method": ("max", "average"),
    "log_format": ("text", "json"),
    "dbof_activation": ("sigmoid", "relu6"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Trains a video classifier on YouTube-8M records, from where --train_dir left off.

    Raises:
        UserError: a value is out of its range.
    """

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
        "Do not resume from a checkpoint: remove those in --train_dir and start a new model.",
        "Files",
    )

    feature_names: str = flag(
        "mean_rgb", "Name(s) of the feature(s) to train on, comma-separated.", "Data"
    )
    feature_sizes: str = flag("1024", "Length(s) of the feature vectors, comma-separated.", "Data")
    frame_features: bool = flag(
        False,
        "Set: the data is frame-level, and the model must take 3-D batches. "
        "Unset: video-level, 2-D batches.",
        "Data",
    )
    num_classes: int = flag(NUM_CLASSES, "Number of classes; labels are 0 to this less 1.", "Data")
    num_readers: int = flag(8, "How many input files to read at once.", "Data")

    model: str = flag(
        "LogisticModel",
        f"Which architecture. Of video-level features: {', '.join(VIDEO_LEVEL_MODELS)}. "
        f"Of frame-level features: {', '.join(FRAME_LEVEL_MODELS)}.",
        "Model",
    )
    moe_num_mixtures: int = flag(
        2, "Experts a class in MoeModel, beside the one that always says no.", "Model"
    )

    video_level_classifier_model: str = flag(
        "MoeModel",
        "What DbofModel, LstmModel and the models below end in: LogisticModel or MoeModel.",
        "Frame-level models",
    )
    iterations: int = flag(30, "DbofModel: frames looked at.", "Frame-level models")
    sample_random_frames: bool = flag(
        True, "DbofModel: train on frames drawn one by one; else on a run.", "Frame-level models"
    )
    dbof_add_batch_norm: bool = flag(
        True, "DbofModel: batch normalisation; else biases.", "Frame-level models"
    )
    dbof_cluster_size: int = flag(
        8192, "DbofModel: length of a projected frame.", "Frame-level models"
    )
    dbof_hidden_size: int = flag(
        1024, "DbofModel: length of the hidden vector.", "Frame-level models"
    )
    dbof_pooling_method: str = flag(
        "max", "DbofModel: pooling over the frames, max or average.", "Frame-level models"
    )
    dbof_activation: str = flag(
        "sigmoid", "DbofModel: activation, sigmoid or relu6.", "Frame-level models"
    )
    lstm_cells: int = flag(1024, "LstmModel: cells a layer.", "Frame-level models")
    lstm_layers: int = flag(2, "LstmModel: layers.", "Frame-level models")
    gru_cells: int = flag(1024, "GruModel: cells a layer.", "Frame-level models")
    gru_layers: int = flag(2, "GruModel: layers.", "Frame-level models")
    vlad_cluster_size: int = flag(
        64, "NetVladModel and NeXtVladModel: clusters a feature.", "Frame-level models"
    )
    nextvlad_groups: int = flag(
        8, "NeXtVladModel: groups that a frame is split into.", "Frame-level models"
    )
    nextvlad_expansion: int = flag(
        2, "NeXtVladModel: how many times wider a frame is made.", "Frame-level models"
    )
    attention_heads: int = flag(
        8, "AttentionModel: weighted means a feature.", "Frame-level models"
    )
    pooling_hidden_size: int = flag(
        1024,
        "NetVladModel, NeXtVladModel, AttentionModel: length of the hidden vector.",
        "Frame-level models",
    )
    pooling_dropout: float = flag(
        0.0,
        "NetVladModel, NeXtVladModel, AttentionModel: share of the pooled vector left out in "
        "training.",
        "Frame-level models",
    )

    batch_size: int = flag(1024, "Examples per batch (per GPU).", "Training")
    num_epochs: int = flag(5, "Passes over the dataset, counted over the whole run.", "Training")
    max_steps: int | None = flag(
        None, "Most iterations of the training loop, over the whole run.", "Training"
    )
    label_loss: str = flag("CrossEntropyLoss", f"Which loss: {', '.join(LOSSES)}.", "Training")
    regularization_penalty: float = flag(
        1.0, "Weight of the regularization loss (the label loss has 1).", "Training"
    )
    optimizer: str = flag("AdamOptimizer", f"Which optimizer: {', '.join(OPTIMIZERS)}.", "Training")
    base_learning_rate: float = flag(0.01, "Learning rate to start with.", "Training")
    learning_rate_decay: float = flag(
        0.95, "Factor applied every --learning_rate_decay_examples.", "Training"
    )
    learning_rate_decay_examples: float = flag(
        4000000.0, "Examples between two decays.", "Training"
    )
    clip_gradient_norm: float = flag(
        1.0, "L2 norm to clip each variable's gradient to; 0: no clipping.", "Training"
    )
    mixed_precision: bool = flag(
        False,
        "Multiply matrices in bfloat16, and keep weights, sums and losses in float32. Faster on "
        "GPUs, and on CPUs that have AVX512_BF16 or AMX.",
        "Training",
    )
    seed: int = flag(
        0, "Decides the initial weights and the order of the videos, with the data.", "Training"
    )

    skip_bad_records: bool = flag(
        False, "Leave out records that cannot be read, and count them; else fail.", "Data"
    )
    skip_bad_batches: bool = flag(
        False, "Leave out batches whose loss or gradient is not finite; else fail.", "Training"
    )

    export_model_steps: int = flag(
        1000,
        "Period, in steps, at which a checkpoint is written and the model is exported for batch "
        "prediction.",
        "Saving",
    )
    keep_checkpoints: int = flag(3, "How many checkpoints and exports to keep.", "Saving")

    checkpoint_minutes: float = flag(15.0, "Write a checkpoint this often, too.", "Saving")

    log_format: str = flag("text", "Log lines as text, or as json, one object a line.", "Logging")

    num_gpu: int = flag(1, "Most GPUs to use; applies only where there are any.", "Devices")
    require_gpu: bool = flag(
        False, "Fail at startup if fewer than --num_gpu GPUs are found.", "Devices"
    )
    log_device_placement: bool = flag(False, "Log the device of every op at startup.", "Devices")

    def __post_init__(self):
        at_least_one = (
            "iterations",
            "dbof_cluster_size",
            "dbof_hidden_size",
            "lstm_cells",
            "lstm_layers",
            "gru_cells",
            "gru_layers",
            "vlad_cluster_size",
            "nextvlad_groups",
            "nextvlad_expansion",
            "attention_heads",
            "pooling_hidden_size",
            "num_classes",
            "num_readers",
            "moe_num_mixtures",
            "batch_size",
            "num_epochs",
            "export_model_steps",
            "keep_checkpoints",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("regularization_penalty", "clip_gradient_norm", "num_gpu"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name} must not be negative; got {getattr(self, name)}.")
        for name in (
            "base_learning_rate",
            "learning_rate_decay",
            "learning_rate_decay_examples",
            "checkpoint_minutes",
        ):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name} must be positive; got {getattr(self, name)}.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"--{name} must be one of {sorted(choices)}; got {getattr(self, name)!r}."
                )
        if not 0 <= self.pooling_dropout < 1:
            raise UserError(f"--pooling_dropout must be in [0, 1); got {self.pooling_dropout}.")
        frame_level = self.model in FRAME_LEVEL_MODELS
        if self.frame_features != frame_level:
            raise UserError(
                f"--model={self.model} takes {'frame' if frame_level else 'video'}-level features; "
                f"got --{'' if self.frame_features else 'no'}frame_features. Say "
                f"--{'' if frame_level else 'no'}frame_features, or choose one of "
                f"{sorted(FRAME_LEVEL_MODELS if self.frame_features else VIDEO_LEVEL_MODELS)}."
            )
        if self.max_steps is not None and self.max_steps < 0:
            raise UserError(f"--max_steps must not be negative; got {self.max_steps}.")
        _ = self.record_format

    @property
    def record_format(self) -> RecordFormat:
        """What to expect of every record of the data set."""
        return record_format(self.model_flags)

    @property
    def model_flags(self) -> dict:
        """The flags that shape the model, name -> value."""
        return {name: getattr(self, name) for name in MODEL_FLAGS}


def record_format(model_flags: dict) -> RecordFormat:
    """The records that a model of these flags reads."""
    return RecordFormat(
        parse_features(model_flags["feature_names"], model_flags["feature_sizes"]),
        model_flags["frame_features"],
        model_flags["num_classes"],
    )
