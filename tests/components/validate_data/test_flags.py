import pytest

from components.validate_data.drift import Thresholds
from components.validate_data.flags import parse
from trainer.common.errors import UserError


def test_thresholds_are_told_from_beams_options():
    assert parse("") == (Thresholds(), [])
    text = "--max_label_js=0.3 --runner=FlinkRunner '--job_name=a b' --max_mean_shift 2"
    thresholds, beam_args = parse(text)
    assert thresholds == Thresholds(label_js=0.3, mean_shift=2.0)
    assert beam_args == ["--runner=FlinkRunner", "--job_name=a b"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("'a", 'data_validation_flags: No closing quotation in "\'a"'),
        ("--max_label_js=x", "data_validation_flags: argument --max_label_js: invalid float"),
        ("--max_label_linf=-1", "max_label_linf must be 0 or more; got -1"),
    ],
)
def test_a_mistake_is_explained(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)
