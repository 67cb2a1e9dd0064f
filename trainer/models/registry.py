"""Every architecture that --model can name, and the flags that each is made of.

To add a model: write its class, add a line here, and name it and its flags in config.py.
"""

import keras
import tensorflow as tf
from keras.src.utils import naming

from trainer.config import record_format
from trainer.models.frame_level_models import (
    AttentionPooling,
    DbofModel,
    FrameLevelLogisticModel,
    NetVlad,
    NeXtVlad,
    PoolingModel,
    RecurrentModel,
)
from trainer.models.recurrence import Gru, Lstm
from trainer.models.video_level_models import Logistic, Moe, VideoLevelModel


def _dbof(flags):
    return DbofModel(
        _classifier(flags),
        iterations=flags["iterations"],
        sample_random_frames=flags["sample_random_frames"],
        cluster_size=flags["dbof_cluster_size"],
        hidden_size=flags["dbof_hidden_size"],
        pooling=flags["dbof_pooling_method"],
        activation=flags["dbof_activation"],
        add_batch_norm=flags["dbof_add_batch_norm"],
    )


def _lstm(flags):
    # Glorot kernels and zero biases, as the original's cells have.
    layer = lambda last: Lstm(  # noqa: E731
        flags["lstm_cells"], recurrent_initializer="glorot_uniform", return_sequences=not last
    )
    return _recurrent(flags, layer, flags["lstm_layers"])


def _gru(flags):
    layer = lambda last: Gru(flags["gru_cells"], return_sequences=not last)  # noqa: E731
    return _recurrent(flags, layer, flags["gru_layers"])


def _recurrent(flags, layer, num_layers):
    layers = [layer(last=number == num_layers - 1) for number in range(num_layers)]
    return RecurrentModel(_classifier(flags), layers)


def _net_vlad(flags):
    return _pooling(flags, lambda: NetVlad(flags["vlad_cluster_size"]))


def _ne_xt_vlad(flags):
    clusters, groups = flags["vlad_cluster_size"], flags["nextvlad_groups"]
    return _pooling(flags, lambda: NeXtVlad(clusters, groups, flags["nextvlad_expansion"]))


def _attention(flags):
    return _pooling(flags, lambda: AttentionPooling(flags["attention_heads"]))


def _pooling(flags, pooling):
    sizes = [feature.size for feature in record_format(flags).features]
    return PoolingModel(
        _classifier(flags),
        sizes,
        [pooling() for _ in sizes],
        flags["pooling_hidden_size"],
        flags["pooling_dropout"],
    )


CLASSIFIERS = {
    "LogisticModel": lambda flags: Logistic(flags["num_classes"]),
    "MoeModel": lambda flags: Moe(flags["num_classes"], flags["moe_num_mixtures"]),
}

VIDEO_LEVEL_MODELS = {
    "LogisticModel": lambda flags: VideoLevelModel(CLASSIFIERS["LogisticModel"](flags)),
    "MoeModel": lambda flags: VideoLevelModel(CLASSIFIERS["MoeModel"](flags)),
}

FRAME_LEVEL_MODELS = {
    "AttentionModel": _attention,
    "DbofModel": _dbof,
    "FrameLevelLogisticModel": lambda flags: FrameLevelLogisticModel(
        CLASSIFIERS["LogisticModel"](flags)
    ),
    "GruModel": _gru,
    "LstmModel": _lstm,
    "NetVladModel": _net_vlad,
    "NeXtVladModel": _ne_xt_vlad,
}


def _classifier(flags):
    """What a frame-level model's vector is classified by."""
    return CLASSIFIERS[flags["video_level_classifier_model"]](flags)


def create(model_flags: dict, mixed_precision: bool = False) -> keras.Model:
    """The model that `model_flags` (TrainConfig.model_flags) describe, with its weights."""
    models = FRAME_LEVEL_MODELS if model_flags["frame_features"] else VIDEO_LEVEL_MODELS
    before = keras.config.dtype_policy()
    naming.reset_uids()  # the same paths of variables in every process
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")
    try:
        model = models[model_flags["model"]](model_flags)
        predict(model, _one_video(model_flags))  # which makes the weights
    finally:
        keras.config.set_dtype_policy(before)
    return model


def _one_video(model_flags):
    """The inputs of a video, to make a model's weights by."""
    width = record_format(model_flags).width
    if not model_flags["frame_features"]:
        return {"features": tf.zeros([1, width])}
    return {
        "features": tf.zeros([1, 1, width], tf.uint8),
        "num_frames": tf.ones([1], tf.int32),
    }


def predict(model: keras.Model, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """Probabilities [batch, num_classes], from reading.model_inputs of a batch."""
    return model(*inputs.values())


def variables(model: keras.Model) -> dict[str, tf.Variable]:
    """All variables of a model, weights and state, by their name in a checkpoint.

    Raises:
        ValueError: two variables have the same path.
    """
    paths = [variable.path for variable in model.variables]
    repeated = sorted({path for path in paths if paths.count(path) > 1})
    if repeated:
        raise ValueError(
            f"Expected the variables of {model.name} to have different paths; got {repeated} more "
            "than once. Give its layers different names."
        )
    return {f"model/{variable.path}": variable.value for variable in model.variables}


def l2(weight: keras.Variable) -> float:
    """The factor of sum(weight^2) / 2 in the regularization loss; 0 for most weights."""
    return 2 * float(weight.regularizer.l2) if weight.regularizer else 0.0
