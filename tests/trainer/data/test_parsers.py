"""Validation and training agree on which records are valid, and on what is in them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from trainer.data import wire

DISAGREEMENTS = ("only validation accepts", "read differently")
SEEDS = fuzz.seed_records()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(range(len(SEEDS))), st.integers(0, 2**32))
def test_no_mutated_record_passes_validation_and_fails_in_training(number, seed):
    record, record_format = SEEDS[number]
    mutated = fuzz.mutate(record, np.random.default_rng(seed))
    assert fuzz.compare(mutated, record_format) not in DISAGREEMENTS


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_the_records_that_are_mutated_are_read_alike(number):
    record, record_format = SEEDS[number]
    assert wire.is_unambiguous(record, record_format.frame_features)
    # The fourth and tenth have a video_id of the wrong type.
    expected = "both reject" if number % 6 == 3 else "both accept"
    assert fuzz.compare(record, record_format) == expected


# A video-level record without its id (a split list of labels, and so on), found by fuzzing.
LABELS = b"\n\x06labels"


@pytest.mark.parametrize(
    "values",
    [b"\x0a\x01\x03\x0a\x01\x07", b"\x0a\x01\x03\x08\x07", b"\x08\x03\x0a\x01\x07", b"\x78\x01"],
    ids=["two lists", "a list and a value", "a value and a list", "an unknown field"],
)
def test_lists_that_the_parsers_read_differently_are_ambiguous(values):
    feature = b"\x1a" + bytes([len(values)]) + values
    entry = LABELS + b"\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert not wire.is_unambiguous(b"\x0a" + bytes([len(features)]) + features, False)
