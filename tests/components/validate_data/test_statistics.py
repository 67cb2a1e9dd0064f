import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.validate_data.statistics import (
    BIN_EDGES,
    SplitStatistics,
    of_frames,
    of_vectors,
    of_videos,
)
from trainer.examples import Video
from trainer.records import MAX_VALUE, MIN_VALUE, QUANTISED_ZERO, QUANTUM, Feature, RecordFormat

VIDEO = RecordFormat((Feature("rgb", 2),), num_classes=4)
FRAME = RecordFormat((Feature("rgb", 2),), frame_features=True, num_classes=4)


def test_vectors_by_hand():
    got = of_vectors(np.array([[1, 0], [3, 0], [5, -3]], np.float32))
    assert got.count == 3
    assert got.mean.tolist() == [3, -1]
    assert got.m2.tolist() == [8, 6]  # 4 + 0 + 4; 1 + 1 + 4
    assert got.std == pytest.approx([(8 / 3) ** 0.5, 2**0.5])
    assert (got.min.tolist(), got.max.tolist()) == ([1, -3], [5, 0])
    assert got.zeros.tolist() == [0, 2]
    assert got.histogram.sum() == 6
    assert (got.histogram[0], got.histogram[-1]) == (1, 2)  # -3 is below the bins, 3 and 5 above


def test_frames_by_hand():
    got = of_frames(np.array([[0, 255], [2, 255]], np.uint8))
    assert got.count == 2
    assert got.mean == pytest.approx([QUANTISED_ZERO + QUANTUM, MAX_VALUE])
    assert got.m2 == pytest.approx([2 * QUANTUM**2, 0])
    assert got.min == pytest.approx([MIN_VALUE, MAX_VALUE])
    assert got.max == pytest.approx([MIN_VALUE + 2 * QUANTUM, MAX_VALUE])
    assert got.zeros.tolist() == [1, 0]
    assert (got.histogram[1], got.histogram[64], got.histogram.sum()) == (2, 2, 4)


def test_all_values_of_the_quantiser_are_in_the_same_bins_as_vectors_and_as_frames():
    frames = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    vectors = (frames * QUANTUM + QUANTISED_ZERO).astype(np.float32)
    assert of_frames(frames).histogram.tolist() == [0] + [4] * 64 + [0]
    assert of_vectors(vectors).histogram.tolist() == [0] + [4] * 64 + [0]
    assert BIN_EDGES[0] < MIN_VALUE < MAX_VALUE < BIN_EDGES[-1]


matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.just(3)),
    elements=st.floats(-100, 100, width=32),
)


@given(matrices, matrices, matrices)
def test_merged_parts_are_the_whole(a, b, c):
    whole = np.concatenate([a, b, c]).astype(np.float64)
    for parts in ([a, b, c], [c, a, b]):
        merged = of_vectors(parts[0])
        for part in parts[1:]:
            merged.merge(of_vectors(part))
        assert merged.count == len(whole)
        assert merged.mean == pytest.approx(whole.mean(axis=0), abs=1e-9)
        assert merged.std == pytest.approx(whole.std(axis=0), rel=1e-6, abs=1e-6)
        assert np.array_equal(merged.min, whole.min(axis=0))
        assert np.array_equal(merged.max, whole.max(axis=0))
        assert np.array_equal(merged.zeros, (whole == 0).sum(axis=0))
        assert merged.histogram.sum() == whole.size


def video(labels, rgb=(0.0, 0.0)) -> Video:
    return Video("id", np.array(labels, np.int64), {"rgb": np.array(rgb, np.float32)})


def test_videos_by_hand():
    got = of_videos([video([0, 3]), video([]), video([3, 3])], VIDEO)
    assert got.videos == 3
    assert got.labels.tolist() == [1, 0, 0, 2]  # a label that comes twice in a video is one
    assert got.labels_per_video.tolist() == [1, 1, 1]
    assert got.frames_per_video.tolist() == []
    assert got.features["rgb"].count == 3


def test_frame_level_videos_by_hand():
    videos = [
        Video("id", np.array([1]), {"rgb": np.zeros((num_frames, 2), np.uint8)})
        for num_frames in (1, 3, 3)
    ]
    got = of_videos(videos, FRAME)
    assert got.frames_per_video.tolist() == [0, 1, 0, 2]
    assert got.features["rgb"].count == 7


label_lists = st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=8)


@settings(deadline=None)
@given(label_lists, label_lists)
def test_merged_splits_are_the_whole(a, b):
    whole = of_videos([video(labels) for labels in a + b], VIDEO)
    for first, second in ((a, b), (b, a)):
        merged = SplitStatistics.empty(4)
        for part in (first, second):
            merged.merge(of_videos([video(labels) for labels in part], VIDEO))
        assert merged.videos == whole.videos
        assert np.array_equal(merged.labels, whole.labels)
        assert np.array_equal(merged.labels_per_video, whole.labels_per_video)


def test_what_is_merged_in_stays_as_it_is():
    one, two = of_videos([video([1])], VIDEO), of_videos([video([2])], VIDEO)
    merged = SplitStatistics.empty(4)
    merged.merge(one)
    merged.merge(two)
    assert one.features["rgb"].count == 1
    assert one.labels.tolist() == [0, 1, 0, 0]
