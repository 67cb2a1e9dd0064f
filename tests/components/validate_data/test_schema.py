from collections import Counter

import numpy as np
import pytest
from google.protobuf import text_format

from components.validate_data.batch import Batch
from components.validate_data.observed import ObservedFeature, observe
from components.validate_data.schema import enforce, infer, parse
from components.validate_data.statistics import SplitStatistics
from trainer.common.errors import UserError
from trainer.data.examples import Video
from trainer.data.records import Feature, RecordFormat

VIDEO = RecordFormat((Feature("rgb", 2),), num_classes=10)
FRAME = RecordFormat((Feature("rgb", 2),), frame_features=True, num_classes=10)


def statistics(*videos: Video, record_format=VIDEO) -> SplitStatistics:
    got = SplitStatistics.empty(record_format)
    got.add(Batch.stack(range(len(videos)), videos))
    return got


def video(labels=(1, 3), rgb=(0.5, 1.0), **extra) -> Video:
    return Video("id", np.array(labels, np.int64), {"rgb": np.array(rgb, np.float32)}, extra)


def clip(num_frames: int) -> Video:
    return Video("id", np.array([2]), {"rgb": np.zeros((num_frames, 2), np.uint8)})


TWO = statistics(video(), video(labels=[], rgb=[-1.0, 0.0], start="float"))
TWO_OBSERVED = observe(TWO, VIDEO)
TEXT = """\
feature {
  name: "id"
  value_count {
    min: 1
    max: 1
  }
  type: BYTES
  presence {
    min_fraction: 1.0
  }
}
feature {
  name: "labels"
  value_count {
    min: 1
  }
  type: INT
  int_domain {
    min: 0
    max: 9
    is_categorical: true
  }
  presence {
    min_count: 1
  }
}
feature {
  name: "rgb"
  type: FLOAT
  float_domain {
    min: -2.0
    max: 2.01
    disallow_nan: true
    disallow_inf: true
  }
  presence {
    min_fraction: 1.0
  }
  shape {
    dim {
      size: 2
    }
  }
}
feature {
  name: "start"
  type: FLOAT
  presence {
    min_count: 1
  }
}
"""


def test_observed_by_hand():
    assert list(TWO_OBSERVED) == ["id", "labels", "rgb", "start"]
    labels = TWO_OBSERVED["labels"]
    assert (labels.type, labels.num_videos, labels.num_values.tolist()) == ("INT", 1, [0, 0, 1])
    assert (labels.min, labels.max) == (1, 3)
    rgb = TWO_OBSERVED["rgb"]
    assert (rgb.type, rgb.num_videos, rgb.min, rgb.max) == ("FLOAT", 2, -1, 1)
    assert TWO_OBSERVED["start"] == ObservedFeature("FLOAT", 1)


def test_a_feature_of_two_types_has_the_more_frequent_one():
    got = statistics(video())
    got.extra = Counter({("x", "bytes"): 2, ("x", "float"): 3, ("x", "nothing"): 9})
    assert observe(got, VIDEO)["x"] == ObservedFeature("FLOAT", 3)


def test_the_inferred_schema_is_this_text():
    assert text_format.MessageToString(infer(TWO_OBSERVED, 2, VIDEO)) == TEXT


def test_frames_are_byte_strings():
    observed = observe(statistics(clip(3), clip(5), record_format=FRAME), FRAME)
    rgb = infer(observed, 2, FRAME).feature[2]
    assert (rgb.name, rgb.type) == ("rgb", 1)
    assert (rgb.value_count.min, rgb.value_count.max) == (1, 300)


def test_data_fits_the_schema_inferred_from_it():
    schema = parse(TEXT, "schema.pbtxt")
    assert list(enforce(schema, "train", TWO_OBSERVED, 2)) == []


@pytest.mark.parametrize(
    "old, new, reason",
    [
        (
            "min_count: 1",
            "min_fraction: 0.75",
            "'labels' must be in at least 0.75 of the videos, but is in 1 of 2",
        ),
        ("min_count: 1", "min_count: 9", "'labels' must be in at least 9 videos, but is in 1 of 2"),
        ("type: INT", "type: BYTES", "'labels' must be of type BYTES, but is INT"),
        ("max: 9", "max: 2", "'labels' must be at most 2, but its max is 3"),
        ("min: 0\n", "min: 2\n", "'labels' must be at least 2, but its min is 1"),
        ("max: 2.01", "max: 0.5", "'rgb' must be at most 0.5, but its max is 1"),
        ("min: -2.0", "min: -0.5", "'rgb' must be at least -0.5, but its min is -1"),
        ("size: 2", "size: 3", "'rgb' must have 3 values per video, but has 2"),
        (
            "    min: 1\n  }\n  type: INT",
            "max: 1 }",
            "must have at most 1 values per video, but one",
        ),
        (
            "    min: 1\n  }\n  type: INT",
            "min: 3 }",
            "must have at least 3 values per video, but one",
        ),
        ('"start"', '"begin"', "'start' is in 1 videos, but not in the schema"),
        ('"start"', '"begin"', "'begin' must be in at least 1 videos, but is in 0 of 2"),
    ],
)
def test_what_does_not_fit_is_told(old, new, reason):
    assert old in TEXT
    schema = parse(TEXT.replace(old, new, 1), "schema.pbtxt")
    assert any(reason in found for found in enforce(schema, "train", TWO_OBSERVED, 2))


def test_a_split_may_be_an_environment_without_a_feature():
    strict = TEXT.replace("min_count: 1", "min_fraction: 1", 1)
    schema = parse(strict, "schema.pbtxt")
    assert len(list(enforce(schema, "test", TWO_OBSERVED, 2))) == 1
    schema.feature[1].not_in_environment.append("test")
    assert list(enforce(schema, "test", TWO_OBSERVED, 2)) == []
    assert len(list(enforce(schema, "train", TWO_OBSERVED, 2))) == 1


def test_no_videos_fit_every_schema():
    empty = SplitStatistics.empty(VIDEO)
    assert list(enforce(parse(TEXT, ""), "train", observe(empty, VIDEO), 0)) == []
    assert len(infer(observe(empty, VIDEO), 0, VIDEO).feature) == 2


@pytest.mark.parametrize(
    "text, words",
    [
        ("feature { nme: 'x' }", 'no field named "nme"'),
        ("feature { name: 'x' bool_domain {} }", "sets 'bool_domain' of a Feature"),
        ("feature { name: 'x' int_domain { name: 'y' min: 1 } skew_comparator {} }", "skew_comp"),
        ("string_domain { name: 'x' }", "sets 'string_domain' of a Schema"),
        ("feature { shape { dim { size: 2 } } presence { } deprecated: true }", "'deprecated'"),
        ("Index,Name\n", "schema.pbtxt, at line:column 1"),
    ],
)
def test_what_cannot_be_enforced_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        parse(text, "schema.pbtxt")
