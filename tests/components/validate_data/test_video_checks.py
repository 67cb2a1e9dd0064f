import numpy as np
import pytest

from components.validate_data.batch import Batch
from components.validate_data.video_checks import check
from trainer.data.examples import Video
from trainer.data.records import Feature, RecordFormat

VIDEO = RecordFormat((Feature("rgb", 3), Feature("audio", 1)), num_classes=10)
FRAME = RecordFormat((Feature("rgb", 3), Feature("audio", 1)), frame_features=True, num_classes=10)


def video(labels=(1, 2), rgb=(0.5, 1, 2), audio=(0.5,), video_id="id", **extra) -> Video:
    features = {"rgb": np.array(rgb, np.float32), "audio": np.array(audio, np.float32)}
    return Video(video_id, np.array(labels, np.int64), features, extra)


def frames(rgb=((1, 2, 3), (4, 5, 6)), audio=((1,), (1,))) -> Video:
    features = {"rgb": np.array(rgb, np.uint8), "audio": np.array(audio, np.uint8)}
    return Video("id", np.array([1]), features)


def found(videos: list[Video], record_format: RecordFormat) -> list:
    return list(check(Batch.stack(range(len(videos)), videos), record_format))


def test_nothing_is_wrong():
    assert found([video(), video()], VIDEO) == []
    assert found([frames(), frames()], FRAME) == []


@pytest.mark.parametrize(
    "bad, kind, reason",
    [
        (video(video_id="a,b"), "unusual_id", "the id 'a,b' contains ','"),
        (video(video_id="a\nb"), "unusual_id", "the id 'a\\nb' contains '\\n'"),
        (video(video_id="\\xffa"), "unusual_id", r"the id '\\xffa' contains '\\xff'"),
        (video(labels=[]), "unlabelled", "the video has no labels"),
        (video(labels=[5, 3, 5]), "repeated_label", "label 5 is repeated 2 times"),
        (video(z="float", a="bytes"), "extra_feature", "the record also has 'a', 'z'"),
        (video(rgb=[0, 0, 0]), "constant", "all values of 'rgb' are 0"),
        (video(rgb=[0.5, 0.5, 0.5]), "constant", "all values of 'rgb' are 0.5"),
        (video(rgb=[0, 1, -2.5]), "out_of_range", "'rgb' has the value -2.5, outside [-2, 2.01]"),
        (video(audio=[2.02]), "out_of_range", "'audio' has the value 2.02, outside [-2, 2.01]"),
    ],
)
def test_videos_by_hand(bad, kind, reason):
    assert found([video(), bad, video()], VIDEO) == [(1, kind, reason)]


@pytest.mark.parametrize(
    "bad, kind, reason",
    [
        (
            frames(rgb=((1, 2, 3), (0, 0, 0), (1, 2, 1), (7, 7, 7)), audio=((1,),) * 4),
            "constant",
            "2 of 4 frames of 'rgb' are constant; all bytes of frame 2 are 0",
        ),
        (
            frames(rgb=((1, 2, 3),) * 301, audio=((1,),) * 301),
            "many_frames",
            "301 frames; only the first 300 are used",
        ),
    ],
)
def test_frames_by_hand(bad, kind, reason):
    assert found([frames(), bad], FRAME) == [(1, kind, reason)]
