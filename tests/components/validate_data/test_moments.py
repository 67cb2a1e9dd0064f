import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.validate_data.moments import Moments, of_frames, of_vectors
from trainer.data.records import MAX_VALUE, MIN_VALUE, QUANTISED_ZERO, QUANTUM


def test_vectors_by_hand():
    got = of_vectors(np.array([[1, 0], [3, 0], [5, -3]], np.float32))
    assert got.count == 3
    assert got.mean.tolist() == [3, -1]
    assert got.m2.tolist() == [8, 6]  # 4 + 0 + 4; 1 + 1 + 4
    assert got.std == pytest.approx([(8 / 3) ** 0.5, 2**0.5])
    assert (got.min.tolist(), got.max.tolist()) == ([1, -3], [5, 0])
    assert got.zeros.tolist() == [0, 2]


def test_frames_by_hand():
    got = of_frames(np.array([[0, 255], [2, 255]], np.uint8))
    assert got.count == 2
    assert got.mean == pytest.approx([QUANTISED_ZERO + QUANTUM, MAX_VALUE])
    assert got.m2 == pytest.approx([2 * QUANTUM**2, 0])
    assert got.min == pytest.approx([MIN_VALUE, MAX_VALUE])
    assert got.max == pytest.approx([MIN_VALUE + 2 * QUANTUM, MAX_VALUE])
    assert got.zeros.tolist() == [1, 0]


@pytest.mark.parametrize("num_frames", [1, 255, 256, 257, 1000])
@pytest.mark.parametrize("byte", [0, 1, 255])
def test_no_sum_of_bytes_overflows(num_frames, byte):
    got = of_frames(np.full((num_frames, 3), byte, np.uint8))
    assert got.mean == pytest.approx([byte * QUANTUM + QUANTISED_ZERO] * 3)
    assert got.m2.tolist() == [0, 0, 0]  # exactly: all sums are of whole numbers
    assert got.zeros.tolist() == [num_frames * (byte == 0)] * 3


matrices = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-100, 100, width=32)
)
byte_matrices = hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.just(3)))


def assert_is_of(got: Moments, values: np.ndarray) -> None:
    assert got.count == len(values)
    assert got.mean == pytest.approx(values.mean(axis=0), abs=1e-9)
    assert got.std == pytest.approx(values.std(axis=0), rel=1e-6, abs=1e-6)
    assert got.min == pytest.approx(values.min(axis=0))
    assert got.max == pytest.approx(values.max(axis=0))


@given(st.lists(matrices, min_size=1, max_size=4), st.randoms())
def test_merged_parts_are_the_whole(parts, random):
    whole = np.concatenate(parts).astype(np.float64)
    random.shuffle(parts)
    merged = Moments.empty(3)
    for part in parts:
        merged.merge(of_vectors(part))
    assert_is_of(merged, whole)
    assert np.array_equal(merged.zeros, (whole == 0).sum(axis=0))


@given(st.lists(byte_matrices, min_size=1, max_size=4), st.randoms())
def test_merged_frames_are_the_whole(parts, random):
    whole = np.concatenate(parts)
    random.shuffle(parts)
    merged = Moments.empty(3)
    for part in parts:
        merged.merge(of_frames(part))
    assert_is_of(merged, whole * QUANTUM + QUANTISED_ZERO)
    assert np.array_equal(merged.zeros, (whole == 0).sum(axis=0))


def test_nothing_merged_with_nothing():
    nothing = Moments.empty(2)
    nothing.merge(Moments.empty(2))
    assert nothing.count == 0
    assert nothing.std.tolist() == [0, 0]
