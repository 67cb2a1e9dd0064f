import pytest
from kfp import dsl

from pipeline.parameters import Parameter, help_text, parameters_of, parse
from trainer.common.errors import UserError

KNOWN = {
    parameter.name: parameter
    for parameter in (
        Parameter("train_data", str, None, "Files to train on."),
        Parameter("num_epochs", int, 5, "Passes over the data."),
        Parameter("base_learning_rate", float, 0.01, "Learning rate."),
        Parameter("frame_features", bool, False, "The data is frame-level."),
    )
}


def test_arguments_become_typed_values():
    words = ["train_data=a=b*.tfrecord", "num_epochs=10", "base_learning_rate=1e-3"]
    assert parse([*words, "frame_features=True"], KNOWN) == {
        "train_data": "a=b*.tfrecord",
        "num_epochs": 10,
        "base_learning_rate": 0.001,
        "frame_features": True,
    }


def test_the_last_value_counts():
    assert parse(["num_epochs=1", "num_epochs=2"], KNOWN) == {"num_epochs": 2}


@pytest.mark.parametrize(
    "word, message",
    [
        ("num_epoch=3", r"no parameter 'num_epoch'\. Did you mean num_epochs=\.\.\.\?$"),
        ("xyz=3", r"(?s)no parameter 'xyz'\.\n.*base_learning_rate, frame_features, num_epochs"),
        (
            "max_steps=3",
            r"flag of the trainer: trainer_flags='--max_steps=\.\.\.'",
        ),
        ("num_epochs=ten", "num_epochs must be an integer; got 'ten'"),
        ("num_epochs=1.5", "num_epochs must be an integer; got '1.5'"),
        ("base_learning_rate=nan", "base_learning_rate must be a number; got 'nan'"),
        ("frame_features=si", "frame_features must be true or false; got 'si'"),
        ("--num_epochs=3", "given as name=value; got '--num_epochs=3'. Did you mean num_epochs="),
        ("num_epochs", "given as name=value; got 'num_epochs'"),
    ],
)
def test_mistake_in_a_parameter(word, message):
    with pytest.raises(UserError, match=message):
        parse([word], KNOWN)


def test_parameters_are_read_from_the_function():
    @dsl.component(base_image="python:3.11")
    def step(text: str, count: int, share: float, flag: bool):
        pass

    @dsl.pipeline
    def pipeline(text: str, flag: bool = True, count: int = 2, share: float = 0.5):
        """A pipeline.

        Args:
            text: Some
                text.
            flag: A flag.
            count: A count.
            share: A share.
        """
        step(text=text, count=count, share=share, flag=flag)

    assert list(parameters_of(pipeline).values()) == [
        Parameter("text", str, None, "Some text."),
        Parameter("flag", bool, True, "A flag."),
        Parameter("count", int, 2, "A count."),
        Parameter("share", float, 0.5, "A share."),
    ]


def test_help_has_name_type_description_and_default():
    assert "  num_epochs=INT\n      Passes over the data. (default: 5)" in help_text(KNOWN)
