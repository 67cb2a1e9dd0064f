"""Every model that --model can name: its level, its flags and its builder.

To add a model, write a file with a function from the model's flags to a `keras.Model`, and add an
entry to MODELS. The model is called as `model(features, training=...)`, or as
`model(features, num_frames, training=...)` at frame level:

    features: [batch, width] float32; at frame level [batch, frames, width] uint8, quantized as in
        trainer/data/records.py, zeros after the end of a video.
    num_frames: [batch] int32.

A model returns probabilities, [batch, num_classes]. A model that returns logits has a `head`, an
elementwise function from its output (a tensor or a structure of tensors) to probabilities, or an
entry with `from_logits`, if its head is a sigmoid. The train step compiles head, loss and gradient
into one pass over memory. It adds the regularizers of the weights, but no losses of `add_loss`.

This module imports neither TensorFlow nor Keras until a model is built.
"""

from __future__ import annotations

import pkgutil
import typing
from dataclasses import dataclass

from trainer.common.flags import Flag, at_least_one, fraction, not_negative, one_of, positive
from trainer.data.records import record_format

if typing.TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclass(frozen=True)
class Model:
    """Entry of a model.

    Attributes:
        builder: "module:function"; the function takes the model's flags, name -> value, and
            returns a keras.Model.
        frame_level: whether the model takes frames instead of a video's mean features.
        flags: the flags that shape the model, besides those that describe the records.
        from_logits: whether the model returns logits whose sigmoid are the probabilities.
        closed_form: whether the model is fitted in closed form (`fit_closed_form`) instead of by
            gradient steps.
    """

    builder: str
    frame_level: bool = False
    flags: tuple[Flag, ...] = ()
    from_logits: bool = False
    closed_form: bool = False


MOE_NUM_MIXTURES = Flag(
    "moe_num_mixtures",
    2,
    "MoeModel: number of experts per class, excluding the dummy expert.",
    at_least_one,
)

# Classifiers that a frame-level model can end in.
CLASSIFIERS = {
    "LogisticModel": "trainer.models.logistic:build_classifier",
    "MoeModel": "trainer.models.moe:build_classifier",
}
CLASSIFIER = (
    Flag(
        "video_level_classifier_model",
        "MoeModel",
        "Classifier that GatedMlpModel and the frame-level models except FrameLevelLogisticModel "
        "end in: "
        f"{' or '.join(CLASSIFIERS)}.",
        one_of(CLASSIFIERS),
    ),
    MOE_NUM_MIXTURES,
)

VLAD_CLUSTER_SIZE = Flag(
    "vlad_cluster_size",
    64,
    "NetVladModel and NeXtVladModel: clusters per feature.",
    at_least_one,
)
POOLING = (
    Flag(
        "pooling_hidden_size",
        1024,
        "NetVladModel, NeXtVladModel and AttentionModel: size of the hidden layer.",
        at_least_one,
    ),
    Flag(
        "pooling_dropout",
        0.0,
        "NetVladModel, NeXtVladModel and AttentionModel: dropout rate of the pooled vector.",
        fraction,
    ),
)

MODELS = {
    "LogisticModel": Model("trainer.models.logistic:build"),
    "MoeModel": Model("trainer.models.moe:build", flags=(MOE_NUM_MIXTURES,)),
    "GatedMlpModel": Model(
        "trainer.models.gated_mlp:build",
        flags=(
            *CLASSIFIER,
            Flag("gated_mlp_size", 1024, "GatedMlpModel: size of the hidden layers.", at_least_one),
            Flag("gated_mlp_blocks", 2, "GatedMlpModel: number of residual blocks.", not_negative),
            Flag("gated_mlp_dropout", 0.4, "GatedMlpModel: dropout rate.", fraction),
        ),
    ),
    "KernelModel": Model(
        "trainer.models.kernel_ridge:build",
        closed_form=True,
        flags=(
            Flag(
                "kernel_centers",
                10000,
                "KernelModel: largest number of training videos; further ones are not used.",
                at_least_one,
            ),
            Flag("kernel_ridge", 0.03, "KernelModel: penalty of the coefficients.", positive),
            Flag(
                "kernel_audio_weight",
                0.45,
                "KernelModel: weight in distances of the features after the first.",
                positive,
            ),
        ),
    ),
    "RoutedExpertsModel": Model(
        "trainer.models.routed_experts:build",
        flags=(
            Flag("routed_experts", 8, "RoutedExpertsModel: number of experts.", at_least_one),
            Flag(
                "routed_experts_picked",
                2,
                "RoutedExpertsModel: number of experts that the router picks per video.",
                at_least_one,
            ),
            Flag(
                "routed_expert_size",
                512,
                "RoutedExpertsModel: size of an expert's hidden layer.",
                at_least_one,
            ),
            Flag("routed_dropout", 0.4, "RoutedExpertsModel: dropout rate.", fraction),
            Flag(
                "routed_shared_expert",
                False,
                "RoutedExpertsModel: add an expert that is picked for every video.",
            ),
            Flag(
                "routed_soft_steps",
                100,
                "RoutedExpertsModel: number of first steps in which all experts are picked.",
                not_negative,
            ),
            Flag(
                "routed_balance_rate",
                0.01,
                "RoutedExpertsModel: change per step of the router's load-balancing bias.",
                not_negative,
            ),
            Flag(
                "routed_random",
                False,
                "RoutedExpertsModel: pick experts at random, by a hash of the video; a control.",
            ),
        ),
    ),
    "FrameLevelLogisticModel": Model("trainer.models.frame_level_logistic:build", frame_level=True),
    "DbofModel": Model(
        "trainer.models.dbof:build",
        frame_level=True,
        flags=(
            *CLASSIFIER,
            Flag("iterations", 30, "DbofModel: number of frames sampled.", at_least_one),
            Flag(
                "sample_random_frames",
                True,
                "DbofModel: sample frames independently; otherwise a run of consecutive frames.",
            ),
            Flag(
                "dbof_add_batch_norm",
                True,
                "DbofModel: use batch normalization; otherwise biases.",
            ),
            Flag(
                "dbof_cluster_size",
                8192,
                "DbofModel: size of the layer applied to each frame.",
                at_least_one,
            ),
            Flag("dbof_hidden_size", 1024, "DbofModel: size of the hidden layer.", at_least_one),
            Flag(
                "dbof_pooling_method",
                "max",
                "DbofModel: pooling over the frames, max or average.",
                one_of(("max", "average")),
            ),
            Flag(
                "dbof_activation",
                "sigmoid",
                "DbofModel: activation, sigmoid or relu6.",
                one_of(("sigmoid", "relu6")),
            ),
        ),
    ),
    "LstmModel": Model(
        "trainer.models.recurrent:build_lstm",
        frame_level=True,
        flags=(
            *CLASSIFIER,
            Flag("lstm_cells", 1024, "LstmModel: units per layer.", at_least_one),
            Flag("lstm_layers", 2, "LstmModel: number of layers.", at_least_one),
        ),
    ),
    "GruModel": Model(
        "trainer.models.recurrent:build_gru",
        frame_level=True,
        flags=(
            *CLASSIFIER,
            Flag("gru_cells", 1024, "GruModel: units per layer.", at_least_one),
            Flag("gru_layers", 2, "GruModel: number of layers.", at_least_one),
        ),
    ),
    "NetVladModel": Model(
        "trainer.models.vlad:build_net_vlad",
        frame_level=True,
        flags=(*CLASSIFIER, VLAD_CLUSTER_SIZE, *POOLING),
    ),
    "NeXtVladModel": Model(
        "trainer.models.vlad:build_ne_xt_vlad",
        frame_level=True,
        flags=(
            *CLASSIFIER,
            VLAD_CLUSTER_SIZE,
            Flag(
                "nextvlad_groups",
                8,
                "NeXtVladModel: number of groups that a frame is split into.",
                at_least_one,
            ),
            Flag(
                "nextvlad_expansion",
                2,
                "NeXtVladModel: factor by which frames are widened.",
                at_least_one,
            ),
            *POOLING,
        ),
    ),
    "AttentionModel": Model(
        "trainer.models.attention:build",
        frame_level=True,
        flags=(
            *CLASSIFIER,
            Flag(
                "attention_heads", 8, "AttentionModel: attention heads per feature.", at_least_one
            ),
            *POOLING,
        ),
    ),
}

# Made from trained models by trainer.ensemble; --model cannot name it.
ENSEMBLE = Model("trainer.models.ensemble:build")


def names(frame_level: bool) -> list[str]:
    """Names of the models of a level, sorted."""
    return sorted(name for name, entry in MODELS.items() if entry.frame_level == frame_level)


def build_classifier(model_flags: dict, initial_bias: float = 0.0) -> keras.layers.Layer:
    """Build the classifier that a model with these flags ends in.

    Args:
        model_flags: TrainConfig.model_flags.
        initial_bias: initial bias of its logits.
    """
    builder = CLASSIFIERS[model_flags["video_level_classifier_model"]]
    return pkgutil.resolve_name(builder)(model_flags, initial_bias)


def create(model_flags: dict, mixed_precision: bool = False) -> keras.Model:
    """Create the model that `model_flags` (TrainConfig.model_flags) describe, with its weights."""
    import keras
    import tensorflow as tf
    from keras.src.utils import naming

    from trainer.models.recalibration import Recalibration

    name = model_flags["model"]
    entry = ENSEMBLE if name == "EnsembleModel" else MODELS[name]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")
    # Keras numbers unnamed layers of a process. Start again, so that every model's variables have
    # the same paths in every process. Keras exports no function for this.
    naming.reset_uids()
    try:
        model = pkgutil.resolve_name(entry.builder)(model_flags)
        if entry.from_logits:
            model.head = tf.sigmoid
        if model_flags["calibration_fraction"]:
            model.recalibration = Recalibration(model_flags["num_classes"])
        predict(model, _example_inputs(model_flags))  # creates the weights
    finally:
        keras.config.set_dtype_policy(policy)
    return model


def _example_inputs(model_flags):
    import tensorflow as tf

    width = record_format(model_flags).width
    if not model_flags["frame_features"]:
        return {"features": tf.zeros([1, width])}
    return {
        "features": tf.zeros([1, 1, width], tf.uint8),
        "num_frames": tf.ones([1], tf.int32),
    }


def call(model: keras.Model, inputs: dict[str, tf.Tensor], training: bool):
    """Output of a model: probabilities, or logits if it has a head.

    Args:
        inputs: `input_pipeline.model_inputs` of a batch.
    """
    import tensorflow as tf
    from keras.src.models.functional import Functional

    if isinstance(inputs["features"], tuple) and not getattr(model, "takes_parts", False):
        inputs = inputs | {"features": tf.concat(inputs["features"], axis=-1)}
    if len(inputs) > 1 and isinstance(model, Functional):  # takes one structure
        return model(inputs, training=training)
    return model(*inputs.values(), training=training)


def uncalibrated(model: keras.Model, outputs) -> tf.Tensor:
    """Probabilities before recalibration, [batch, num_classes] float32, from `call`'s output."""
    import tensorflow as tf

    outputs = tf.nest.map_structure(lambda output: tf.cast(output, tf.float32), outputs)
    return model.head(outputs) if hasattr(model, "head") else outputs


def recalibrated(model: keras.Model, predictions: tf.Tensor) -> tf.Tensor:
    """Predictions of `uncalibrated` after the model's recalibration, if it has one."""
    recalibration = getattr(model, "recalibration", None)
    return recalibration(predictions) if recalibration else predictions


def probabilities(model: keras.Model, outputs) -> tf.Tensor:
    """Probabilities, [batch, num_classes] float32, from the output of `call`."""
    return recalibrated(model, uncalibrated(model, outputs))


def predict(model: keras.Model, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Probabilities, [batch, num_classes] float32, from `input_pipeline.model_inputs`."""
    return probabilities(model, call(model, inputs, training=False))


def variables(model: keras.Model) -> dict[str, tf.Variable]:
    """All variables of a model, weights and state, by their name in a checkpoint.

    Raises:
        ValueError: two variables have the same path.
    """
    members = getattr(model, "members", None)
    if members:
        result = {
            name.replace("model/", f"model/member_{i}/", 1): variable
            for i, member in enumerate(members)
            for name, variable in variables(member).items()
        }
        return result | _recalibration_variables(model)
    paths = [variable.path for variable in model.variables]
    repeated = sorted({path for path in paths if paths.count(path) > 1})
    if repeated:
        raise ValueError(
            f"Expected the variables of {model.name} to have different paths; got {repeated} more "
            "than once. Give its layers different names."
        )
    result = {f"model/{variable.path}": variable.value for variable in model.variables}
    return result | _recalibration_variables(model)


def _recalibration_variables(model):
    recalibration = getattr(model, "recalibration", None)
    names = ("coefficients", "log_counts", "fitted_step") if recalibration else ()
    return {f"model/recalibration/{name}": getattr(recalibration, name) for name in names}
