"""FrameLevelLogisticModel: a logistic classifier of the mean of the frames."""

import tensorflow as tf

from trainer.models import frames, logistic
from trainer.models.layers import VideoModel


class FrameLevelLogisticModel(VideoModel):
    """A classifier of the mean of the unit-length frames."""

    def vector(self, features, num_frames, training):
        total = frames.sum_of_unit_frames(features, num_frames, training)
        return total / tf.cast(tf.maximum(num_frames, 1), tf.float32)[:, None]


def build(flags: dict) -> FrameLevelLogisticModel:
    return FrameLevelLogisticModel(logistic.build_classifier(flags), "frame_level_logistic_model")
