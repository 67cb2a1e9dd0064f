import pytest

from pipeline.checks import check
from trainer.common.errors import UserError


def test_good_settings_pass():
    check({})
    check(
        {
            "gate_min_gap": 0.5,
            "batch_size": 32,
            "trainer_flags": "--max_steps=9 --seed=1 --num_gpu 0",
        }
    )


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"accelerator_count": "-1"},
            "accelerator_count must be a whole number, 0 or more; got '-1'",
        ),
        ({"accelerator_count": "one"}, "accelerator_count must be a whole number"),
        ({"accelerator_count": ""}, "accelerator_count must be a whole number"),
        ({"num_workers": 0}, "num_workers must be at least 1; got 0"),
        ({"gate_min_map": -0.1}, "gate_min_map must be from 0 to 1; got -0.1"),
        ({"batch_size": 0}, "--batch_size must be at least 1; got 0"),
        ({"feature_names": "rgb,audio"}, "must have the same length"),
        ({"trainer_flags": "--sede=1"}, "Unknown command line flag 'sede'"),
        ({"trainer_flags": "--seed='1"}, "trainer_flags: No closing quotation"),
    ],
)
def test_invalid_parameters_of_a_step_are_found(values, message):
    with pytest.raises(UserError, match=message):
        check(values)
