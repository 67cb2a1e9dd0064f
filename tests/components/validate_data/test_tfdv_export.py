import numpy as np
import pytest

from components.validate_data.batch import Batch
from components.validate_data.statistics import SplitStatistics
from components.validate_data.tfdv_export import to_proto
from trainer.data.examples import Video
from trainer.data.records import Feature, RecordFormat

VIDEO = RecordFormat((Feature("rgb", 2),), num_classes=10)
FRAME = RecordFormat((Feature("rgb", 2),), frame_features=True, num_classes=10)


def video(labels, rgb) -> Video:
    features = {"rgb": np.array(rgb, np.float32)}
    return Video("id", np.array(labels, np.int64), features, {"start": "float"})


def statistics(record_format=VIDEO, *videos) -> SplitStatistics:
    got = SplitStatistics.empty(record_format)
    if videos:
        got.add(Batch.stack(range(len(videos)), videos))
    return got


@pytest.fixture
def splits():
    return {
        "train": statistics(VIDEO, video([1, 9], [0.0, 1.0]), video([1], [0.5, -1.0])),
        "test": statistics(VIDEO, video([], [0.0, 0.0])),
    }


def test_video_level_by_hand(splits):
    train, test = to_proto(splits, VIDEO).datasets
    assert (train.name, train.num_examples) == ("train", 2)
    video_id, labels, rgb, start = train.features
    assert (video_id.name, video_id.bytes_stats.common_stats.num_non_missing) == ("id", 2)
    assert (start.name, start.num_stats.common_stats.num_non_missing) == ("start", 2)

    common = labels.num_stats.common_stats
    assert (common.min_num_values, common.max_num_values, common.tot_num_values) == (1, 2, 3)
    assert common.avg_num_values == 1.5
    assert labels.num_stats.mean == pytest.approx(11 / 3)  # of 1, 1 and 9
    assert labels.num_stats.std_dev == pytest.approx(np.std([1, 1, 9]))
    assert (labels.num_stats.min, labels.num_stats.median, labels.num_stats.max) == (1, 1, 9)
    counts = [bucket.sample_count for bucket in labels.num_stats.histograms[0].buckets]
    assert counts == [0, 2, 0, 0, 0, 0, 0, 0, 0, 1]

    assert rgb.num_stats.mean == 0.125
    assert rgb.num_stats.std_dev == pytest.approx(np.std([0, 1, 0.5, -1]))
    assert (rgb.num_stats.min, rgb.num_stats.max, rgb.num_stats.num_zeros) == (-1, 1, 1)
    assert rgb.num_stats.common_stats.avg_num_values == 2
    assert sum(b.sample_count for b in rgb.num_stats.histograms[0].buckets) == pytest.approx(4)

    assert test.features[1].num_stats.common_stats.num_missing == 1  # labels
    assert not test.features[1].num_stats.histograms


def test_frame_level_by_hand():
    clips = [
        Video("id", np.array([1]), {"rgb": np.zeros((num_frames, 2), np.uint8)})
        for num_frames in (2, 4)
    ]
    (dataset,) = to_proto({"train": statistics(FRAME, *clips)}, FRAME).datasets
    rgb = dataset.features[2].bytes_stats
    assert (rgb.common_stats.min_num_values, rgb.common_stats.max_num_values) == (2, 4)
    assert rgb.common_stats.avg_num_values == 3
    assert rgb.avg_num_bytes == 2


def test_no_videos():
    for record_format in (VIDEO, FRAME):
        (dataset,) = to_proto({"train": statistics(record_format)}, record_format).datasets
        assert dataset.num_examples == 0
