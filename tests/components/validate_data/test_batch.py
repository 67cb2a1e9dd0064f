import numpy as np

from components.validate_data.batch import Batch
from trainer.data.examples import Video


def video(video_id="a", labels=(1,), features=(0.5, 1.0), dtype=np.float32, **extra) -> Video:
    return Video(video_id, np.array(labels, np.int64), {"rgb": np.array(features, dtype)}, extra)


def test_video_level_videos():
    videos = [video("a", [1, 299]), video("bcd", [], [1.5, 2]), video("e", [7], start="float")]
    batch = Batch.stack([1, 2, 4], videos)
    assert (list(batch.numbers), batch.ids, len(batch)) == ([1, 2, 4], ["a", "bcd", "e"], 3)
    assert (batch.labels.tolist(), batch.owners.tolist()) == ([1, 299, 7], [0, 0, 2])
    assert batch.features["rgb"].tolist() == [[0.5, 1], [1.5, 2], [0.5, 1]]
    assert batch.lengths == {}
    assert list(batch.extra) == [{}, {}, {"start": "float"}]


def test_frame_level_videos():
    frames = np.arange(6).reshape(3, 2)
    videos = [video("a", [1], frames[:1], np.uint8), video("b", [3], frames, np.uint8)]
    batch = Batch.stack([1, 3], videos)
    assert batch.features["rgb"].tolist() == [[0, 1], [0, 1], [2, 3], [4, 5]]
    assert batch.lengths["rgb"].tolist() == [1, 3]
    assert (batch.labels.tolist(), batch.owners.tolist()) == ([1, 3], [0, 1])


def test_a_label_that_comes_twice_is_one():
    batch = Batch.stack([1, 2], [video(labels=[3, 1, 3]), video(labels=[3])])
    labels, owners = batch.distinct_labels()
    assert (labels.tolist(), owners.tolist()) == ([1, 3, 3], [0, 0, 1])
