"""What a record holds."""

import numpy as np
import pytest

from trainer.common.errors import UserError
from trainer.data.records import (
    MAX_VALUE,
    MIN_VALUE,
    QUANTISED_ZERO,
    QUANTUM,
    Feature,
    RecordFormat,
    parse_features,
)


@pytest.mark.parametrize(
    "names, sizes, expected",
    [
        ("mean_rgb", "1024", [("mean_rgb", 1024)]),
        ("rgb,audio", "1024,128", [("rgb", 1024), ("audio", 128)]),
        (" rgb , audio", "1024, 128 ", [("rgb", 1024), ("audio", 128)]),
        ("audio,rgb", "128,1024", [("audio", 128), ("rgb", 1024)]),  # their order is kept
    ],
)
def test_features_from_flags(names, sizes, expected):
    assert parse_features(names, sizes) == tuple(Feature(*pair) for pair in expected)


@pytest.mark.parametrize(
    "names, sizes, message",
    [
        ("rgb,audio", "1024", "2 names ('rgb,audio') and 1 sizes ('1024')"),
        ("rgb", "1024,128", "1 names ('rgb') and 2 sizes ('1024,128')"),
        ("rgb,rgb", "3,3", "must be distinct and not empty; got 'rgb,rgb'"),
        ("rgb,", "3,3", "must be distinct and not empty; got 'rgb,'"),
        ("", "3", "must be distinct and not empty; got ''"),
        ("rgb", "0", "positive integers; got '0'"),
        ("rgb", "-3", "positive integers; got '-3'"),
        ("rgb", "3.5", "positive integers; got '3.5'"),
        ("rgb", "many", "positive integers; got 'many'"),
        ("rgb", "", "positive integers; got ''"),
    ],
)
def test_mistakes_in_the_flags_are_named(names, sizes, message):
    with pytest.raises(UserError) as raised:
        parse_features(names, sizes)
    assert message in str(raised.value)


def test_the_default_format_is_that_of_the_2018_release():
    assert RecordFormat() == RecordFormat(
        (Feature("mean_rgb", 1024), Feature("mean_audio", 128)), False, 3862
    )
    assert RecordFormat().width == 1152


def test_dequantising_is_the_originals():
    # Its Dequantize: q * (4 / 255) + (4 / 512 - 2).
    assert pytest.approx(-1.9921875) == MIN_VALUE == QUANTISED_ZERO
    assert pytest.approx(2.0078125) == MAX_VALUE
    values = np.arange(256) * QUANTUM + QUANTISED_ZERO
    assert np.diff(values) == pytest.approx(4 / 255)
