"""Which models there are, and what each takes."""

import pytest

from trainer import config, losses, models, optimizers
from trainer.config import TrainConfig
from trainer.errors import UserError

VIDEO_LEVEL = ["LogisticModel", "MoeModel"]
FRAME_LEVEL = [
    "AttentionModel",
    "DbofModel",
    "FrameLevelLogisticModel",
    "GruModel",
    "LstmModel",
    "NeXtVladModel",
    "NetVladModel",
]


def flags(**changes) -> dict:
    """The model flags of a config with a feature of 2 numbers and 3 classes."""
    small = {"feature_names": "rgb", "feature_sizes": "2", "num_classes": 3}
    return TrainConfig(**small | changes).model_flags


def test_the_models_that_there_are():
    assert sorted(models.VIDEO_LEVEL_MODELS) == VIDEO_LEVEL
    assert sorted(models.FRAME_LEVEL_MODELS) == FRAME_LEVEL


def test_an_unknown_model_names_the_choices():
    with pytest.raises(UserError) as raised:
        flags(model="Moe")
    choices = sorted(VIDEO_LEVEL + FRAME_LEVEL)
    assert str(raised.value) == f"--model must be one of {choices}; got 'Moe'."


def test_the_names_of_the_choices_are_those_that_there_are():
    assert sorted(config.VIDEO_LEVEL_MODELS) == VIDEO_LEVEL
    assert sorted(config.FRAME_LEVEL_MODELS) == FRAME_LEVEL
    assert sorted(config.CHOICES["label_loss"]) == sorted(losses.LOSSES)
    assert sorted(config.CHOICES["optimizer"]) == sorted(optimizers.OPTIMIZERS)


@pytest.mark.parametrize("name", VIDEO_LEVEL)
def test_a_video_level_model_takes_no_frames(name):
    with pytest.raises(UserError) as raised:
        models.create(flags(model=name, frame_features=True))
    assert str(raised.value) == (
        f"--model={name} takes video-level features; got --frame_features. Choose one of "
        f"{FRAME_LEVEL}."
    )


@pytest.mark.parametrize("name", FRAME_LEVEL)
def test_a_frame_level_model_takes_nothing_but_frames(name):
    with pytest.raises(UserError) as raised:
        models.create(flags(model=name))
    assert str(raised.value) == (
        f"--model={name} takes frame-level features; got --noframe_features. Choose one of "
        f"{VIDEO_LEVEL}."
    )
