"""Predictions of a mixture of experts together with its gate probabilities."""

import keras
import tensorflow as tf

from trainer.models.video_level_models import Moe


def is_mixture(model: keras.Model) -> bool:
    """Whether a model of trainer.models ends in a mixture of experts."""
    return isinstance(model.classifier, Moe)


def predict(model: keras.Model, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the predictions of a mixture of experts and its gate probabilities.

    Args:
        model: a model that `is_mixture`.
        inputs: input_pipeline.model_inputs of a batch.

    Returns:
        predictions: [batch, num_classes] float32, as trainer.models.registry.predict.
        gate_probabilities: [batch, num_experts + 1, num_classes] float32, the dummy expert last.
    """
    vector = model.vector(inputs["features"], inputs.get("num_frames"), training=False)
    gate_logits, expert_probabilities = model.classifier.opinions(vector)
    gate_probabilities = tf.nn.softmax(gate_logits, axis=1)
    predictions = tf.reduce_sum(gate_probabilities[:, :-1] * expert_probabilities, axis=1)
    return predictions, gate_probabilities
