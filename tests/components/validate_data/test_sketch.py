import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.validate_data.sketch import (
    BYTE_VALUES,
    FLOAT_EDGES,
    FLOAT_VALUES,
    LARGEST,
    RELATIVE_ERROR,
    SMALLEST,
    Sketch,
    float_buckets,
)
from trainer.data.records import MAX_VALUE, MIN_VALUE

SHARES = (0, 0.01, 0.25, 0.5, 0.9, 1)


def test_bytes_are_exact():
    sketch = Sketch.of_bytes(2)
    sketch.add_frames(np.array([[0, 7], [100, 7], [255, 7]], np.uint8))
    assert sketch.quantile(0).tolist() == BYTE_VALUES[[0, 7]].tolist()
    assert sketch.quantile(0.5).tolist() == BYTE_VALUES[[100, 7]].tolist()
    assert sketch.quantile(1).tolist() == BYTE_VALUES[[255, 7]].tolist()
    assert BYTE_VALUES[[0, 255]] == pytest.approx([MIN_VALUE, MAX_VALUE])


def test_floats_by_hand():
    sketch = Sketch.of_floats(1)
    sketch.add_vectors(np.array([[-1.5], [0.0], [0.25], [2.0], [99.0]], np.float32))
    got = [sketch.quantile(share)[0] for share in (0, 0.25, 0.5, 0.75, 1)]
    assert got == pytest.approx([-1.5, 0, 0.25, 2, LARGEST], rel=2 * RELATIVE_ERROR)


def test_no_values():
    assert np.isnan(Sketch.of_floats(3).quantile(0.5)).all()


def test_the_buckets_tile_the_line():
    assert len(FLOAT_EDGES) == len(FLOAT_VALUES) + 1
    assert (np.diff(FLOAT_EDGES) > 0).all()
    assert (FLOAT_EDGES[:-1] < FLOAT_VALUES).all()
    assert (FLOAT_EDGES[1:] > FLOAT_VALUES).all()


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-LARGEST, LARGEST, width=32)))
def test_a_bucket_holds_its_values(values):
    got = FLOAT_VALUES[float_buckets(values)]
    assert (np.abs(got - values) <= 1.01 * RELATIVE_ERROR * np.abs(values) + SMALLEST).all()


matrices = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-8, 8, width=32)
)


@given(st.lists(matrices, min_size=1, max_size=4), st.randoms())
def test_merged_parts_have_the_quantiles_of_the_whole(parts, random):
    whole = np.concatenate(parts).astype(np.float64)
    random.shuffle(parts)
    merged = Sketch.of_floats(2)
    for part in parts:
        sketch = Sketch.of_floats(2)
        sketch.add_vectors(part)
        merged.merge(sketch)
    for share in SHARES:
        expected = np.quantile(whole, share, axis=0, method="lower")
        error = np.abs(merged.quantile(share) - expected)
        assert (error <= 1.01 * RELATIVE_ERROR * np.abs(expected) + SMALLEST).all()


@given(st.lists(matrices, min_size=2, max_size=3))
def test_merging_is_the_same_in_any_order(parts):
    def merge(order):
        merged = Sketch.of_floats(2)
        for part in order:
            merged.add_vectors(part)
        return merged.counts

    assert np.array_equal(merge(parts), merge(parts[::-1]))


def test_histogram_by_hand():
    sketch = Sketch.of_bytes(1)
    sketch.add_frames(np.array([[0], [1], [1], [4]], np.uint8))
    step = BYTE_VALUES[1] - BYTE_VALUES[0]
    edges = BYTE_VALUES[0] - step / 2 + step * np.array([0, 2, 4, 6])
    assert sketch.histogram(edges) == pytest.approx([3, 0, 1])


def test_histogram_of_floats_is_close():
    values = np.linspace(-1, 1, 2001, dtype=np.float32).reshape(-1, 1)
    sketch = Sketch.of_floats(1)
    sketch.add_vectors(values)
    assert sketch.histogram(np.array([-1.1, -0.5, 0, 0.5, 1.1])) == pytest.approx([500] * 4, abs=12)
