"""EnsembleModel: the average of the predictions of several trained models, as one model."""

import keras
import tensorflow as tf

from trainer.models import registry


class EnsembleModel(keras.Model):
    """Mean of the members' probabilities, each after its recalibration.

    Args:
        members: models of trainer.models for the same features and classes.
    """

    def __init__(self, members: list[keras.Model]):
        super().__init__(autocast=False, name="ensemble_model")
        self.members = members

    def build(self, *_):
        """Do nothing: the members are built."""

    def call(self, *inputs, training=False):
        names = ("features", "num_frames")[: len(inputs)]
        inputs = dict(zip(names, inputs, strict=True))
        predictions = [registry.predict(member, inputs) for member in self.members]
        return tf.add_n(predictions) / len(predictions)


def build(flags: dict) -> EnsembleModel:
    return EnsembleModel([registry.create(member) for member in flags["members"]])
