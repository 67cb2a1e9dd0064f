"""Predictions of a mixture of experts together with its gate probabilities."""

import keras
import tensorflow as tf

from trainer.models import registry
from trainer.models.moe import Moe


def is_mixture(model: keras.Model) -> bool:
    """Whether a model of trainer.models ends in a mixture of experts."""
    return isinstance(getattr(model, "classifier", None), Moe)


def predict(model: keras.Model, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the predictions of a mixture of experts and its gate probabilities.

    Args:
        model: a model that `is_mixture`.
        inputs: input_pipeline.model_inputs of a batch.

    Returns:
        predictions: [batch, num_classes] float32, as trainer.models.registry.predict.
        gate_probabilities: [batch, num_experts + 1, num_classes] float32, the dummy expert last.
    """
    outputs = registry.call(model, inputs, training=False)
    gate_probabilities, _ = model.classifier.mixture(outputs)
    return registry.probabilities(model, outputs), gate_probabilities
