"""Which models there are, and what precision they work in."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import config
from trainer.config import TrainConfig
from trainer.models import registry


def test_every_model_that_the_flags_allow_is_there():
    assert sorted(registry.VIDEO_LEVEL_MODELS) == sorted(config.VIDEO_LEVEL_MODELS)
    assert sorted(registry.FRAME_LEVEL_MODELS) == sorted(config.FRAME_LEVEL_MODELS)
    assert sorted(registry.CLASSIFIERS) == sorted(config.CHOICES["video_level_classifier_model"])


def model_flags(**changes) -> dict:
    small = {"feature_names": "rgb", "feature_sizes": "50", "num_classes": 7}
    return TrainConfig(**small | changes).model_flags


@pytest.mark.parametrize("name", ["LogisticModel", "MoeModel"])
def test_mixed_precision_is_for_training_alone(name):
    flags = model_flags(model=name)
    mixed, exact = registry.create(flags, mixed_precision=True), registry.create(flags)
    exact.set_weights(mixed.get_weights())
    assert {variable.dtype for variable in mixed.variables} == {"float32"}
    inputs = {"features": tf.random.stateless_normal([20, 50], [0, 0])}
    expected = registry.predict(exact, inputs).numpy()
    assert np.array_equal(registry.predict(mixed, inputs), expected)
    in_training = mixed.classifier.predictions(mixed.scores(**inputs))
    assert in_training.dtype == tf.float32
    assert 0 < np.abs(in_training - expected).max() < 0.01


def test_one_models_precision_is_not_the_nexts():
    before = keras.config.dtype_policy()
    registry.create(model_flags(), mixed_precision=True)
    assert keras.config.dtype_policy() == before
    assert registry.create(model_flags()).dtype_policy.name == "float32"
