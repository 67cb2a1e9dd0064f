import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.validate_data.batch import Batch
from components.validate_data.statistics import SplitStatistics
from trainer.data.examples import Video
from trainer.data.records import Feature, RecordFormat

VIDEO = RecordFormat((Feature("rgb", 2),), num_classes=4)
FRAME = RecordFormat((Feature("rgb", 2),), frame_features=True, num_classes=4)


def video(labels, rgb=(0.0, 0.0), **extra) -> Video:
    return Video("id", np.array(labels, np.int64), {"rgb": np.array(rgb, np.float32)}, extra)


def of(videos, record_format=VIDEO) -> SplitStatistics:
    statistics = SplitStatistics.empty(record_format)
    if videos:
        statistics.add(Batch.stack(range(len(videos)), videos))
    return statistics


def test_videos_by_hand():
    got = of([video([0, 3], start="float"), video([]), video([3, 3])])
    assert got.num_videos == 3
    assert got.label_counts.tolist() == [1, 0, 0, 2]  # a label that comes twice in a video is one
    assert got.labels_per_video.tolist() == [1, 1, 1]
    assert got.features["rgb"].moments.count == 3
    assert got.features["rgb"].lengths.tolist() == [0, 0, 3]
    assert got.extra == {("start", "float"): 1}


def test_frame_level_videos_by_hand():
    videos = [
        Video("id", np.array([1]), {"rgb": np.zeros((num_frames, 2), np.uint8)})
        for num_frames in (1, 3, 3)
    ]
    got = of(videos, FRAME)
    assert got.features["rgb"].lengths.tolist() == [0, 1, 0, 2]
    assert got.features["rgb"].moments.count == 7
    assert got.features["rgb"].moments.zeros.tolist() == [7, 7]


lists = st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=4), st.floats(-2, 2, width=32)))


@settings(deadline=None)
@given(st.lists(lists, min_size=1, max_size=4), st.randoms())
def test_merged_parts_are_the_whole(parts, random):
    def videos(rows):
        return [video(labels, (value, -value)) for labels, value in rows]

    whole = of(videos([row for part in parts for row in part]))
    random.shuffle(parts)
    merged = SplitStatistics.empty(VIDEO)
    for part in parts:
        merged.merge(of(videos(part)))
    assert merged.num_videos == whole.num_videos
    assert np.array_equal(merged.label_counts, whole.label_counts)
    assert np.array_equal(merged.labels_per_video, whole.labels_per_video)
    got, expected = merged.features["rgb"], whole.features["rgb"]
    assert np.array_equal(got.sketch.counts, expected.sketch.counts)
    assert got.moments.mean == pytest.approx(expected.moments.mean, abs=1e-12)
    assert got.moments.std == pytest.approx(expected.moments.std, abs=1e-7)


def test_what_is_merged_in_stays_as_it_is():
    one, two = of([video([1])]), of([video([2])])
    merged = SplitStatistics.empty(VIDEO)
    merged.merge(one)
    merged.merge(two)
    assert one.features["rgb"].moments.count == 1
    assert one.features["rgb"].sketch.counts.sum() == 2
    assert one.label_counts.tolist() == [0, 1, 0, 0]
