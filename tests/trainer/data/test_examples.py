import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.paths import ROOT
from trainer.data import example_pb2
from trainer.data.examples import (
    encode_example,
    encode_sequence_example,
    good_records,
    inspect,
    parse,
)
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import write_records

VIDEO = RecordFormat((Feature("rgb", 3), Feature("audio", 2)), num_classes=10)
FRAME = RecordFormat((Feature("rgb", 3), Feature("audio", 2)), frame_features=True, num_classes=10)

RGB = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
AUDIO = np.array([[5, 6], [7, 8]], np.uint8)


def video(**changes) -> bytes:
    """A record that fits VIDEO, but for the changes; None: without that feature."""
    features = {"id": b"ab", "labels": [1, 9], "rgb": [0.5, 1.0, -2.0], "audio": [0.0, 0.25]}
    return encode_example({k: v for k, v in (features | changes).items() if v is not None})


def frames(context=None, **changes) -> bytes:
    """A record that fits FRAME, but for the changes; None: without that feature."""
    lists = {"rgb": RGB, "audio": AUDIO} | changes
    return encode_sequence_example(
        context or {"id": b"ab", "labels": [1, 9]},
        {name: value for name, value in lists.items() if value is not None},
    )


def test_a_video_level_record():
    got = parse(video(), VIDEO)
    assert got.id == "ab"
    assert got.labels.dtype == np.int64
    assert got.labels.tolist() == [1, 9]
    assert got.features["rgb"].dtype == np.float32
    assert got.features["rgb"].tolist() == [0.5, 1.0, -2.0]
    assert got.features["audio"].tolist() == [0.0, 0.25]
    assert got.extra == {}


def test_a_frame_level_record():
    got = parse(frames(), FRAME)
    assert (got.id, got.labels.tolist()) == ("ab", [1, 9])
    assert got.features["rgb"].dtype == np.uint8
    assert np.array_equal(got.features["rgb"], RGB)
    assert np.array_equal(got.features["audio"], AUDIO)


def test_the_older_id_and_other_features():
    got = parse(video(id=None, video_id=b"xyz", start=[1.5]), VIDEO)
    assert (got.id, got.extra) == ("xyz", {"start": "float"})
    got = parse(frames({"video_id": b"xyz", "start": 1.5}, speech=AUDIO), FRAME)
    assert (got.id, got.extra) == ("xyz", {"start": "float", "speech": "frames"})


@pytest.mark.parametrize("labels", [None, [], np.empty(0, np.int64)])
def test_a_video_without_labels_is_no_error(labels):
    assert parse(video(labels=labels), VIDEO).labels.tolist() == []


def test_an_id_that_is_no_utf8():
    assert parse(video(id=b"a\xff"), VIDEO).id == "a\\xff"


@pytest.mark.parametrize(
    "changes, kind, reason",
    [
        ({"id": None}, "no_id", "no id: expected 'id' or 'video_id', found 'audio', 'labels'"),
        (
            {"id": b""},
            "no_id",
            "'id' must be one non-empty byte string, found an empty",
        ),
        ({"id": [b"a", b"b"]}, "no_id", "found 2 byte strings"),
        ({"id": 7}, "no_id", "found 1 int64 value"),
        ({"labels": [1.0]}, "wrong_type", "'labels' must be int64, found 1 float32 value"),
        ({"labels": [2, 10]}, "label_out_of_range", "label 10 is out of range: expected 0 to 9"),
        ({"labels": [-1]}, "label_out_of_range", "label -1 is out of range"),
        ({"labels": [1 << 40]}, "label_out_of_range", "label 1099511627776 is out of range"),
        ({"rgb": None}, "missing_feature", "no video-level feature 'rgb': found at video level"),
        ({"rgb": [1, 2, 3]}, "wrong_type", "'rgb' must be 3 floats, found 3 int64 values"),
        ({"rgb": b"abc"}, "wrong_type", "'rgb' must be 3 floats, found 1 byte string"),
        ({"rgb": []}, "wrong_type", "'rgb' must be 3 floats, found an empty feature"),
        ({"rgb": [1.0, 2.0]}, "wrong_size", "'rgb' must be 3 floats, found 2"),
        ({"rgb": [0.0, np.nan, 1.0]}, "not_finite", "must be finite, found nan at position 1"),
        ({"rgb": [0.0, 1.0, -np.inf]}, "not_finite", "must be finite, found -inf at position 2"),
    ],
)
def test_what_is_wrong_with_a_video_level_record(changes, kind, reason):
    _, (problem,) = inspect(video(**changes), VIDEO)
    assert problem.kind == kind
    assert reason in problem.reason
    with pytest.raises(ValueError, match="^" + problem.reason[:12]):
        parse(video(**changes), VIDEO)


@pytest.mark.parametrize(
    "changes, kind, reason",
    [
        ({"rgb": None}, "missing_feature", "no frame-level feature 'rgb': found at video level"),
        ({"rgb": RGB[:0]}, "no_frames", "'rgb' has no frames"),
        ({"rgb": AUDIO}, "wrong_size", "frame 1 of 'rgb' must be 3 bytes, found 2"),
        ({"rgb": [b"abc", b"ab"]}, "wrong_size", "frame 2 of 'rgb' must be 3 bytes, found 2"),
        ({"rgb": [b"abc", 1.5]}, "wrong_type", "frame 2 of 'rgb' must be 3 bytes, found 1 float32"),
        (
            {"rgb": [b"abc", []]},
            "wrong_type",
            "frame 2 of 'rgb' must be 3 bytes, found an empty",
        ),
        ({"rgb": [[b"a", b"b"]]}, "wrong_type", "must be 3 bytes, found 2 byte strings"),
    ],
)
def test_what_is_wrong_with_a_frame_level_record(changes, kind, reason):
    got, (problem,) = inspect(frames(**changes), FRAME)
    assert problem.kind == kind
    assert reason in problem.reason
    assert list(got.features) == ["audio"]


def test_all_problems_are_told():
    _, problems = inspect(video(id=None, labels=[99], rgb=[1.0]), VIDEO)
    assert [p.kind for p in problems] == ["no_id", "label_out_of_range", "wrong_size"]


def test_the_other_level_is_named_in_the_message():
    with pytest.raises(ValueError, match="at frame level 'audio', 'rgb'"):
        parse(frames(), VIDEO)
    with pytest.raises(ValueError, match="found at video level 'audio', 'id', 'labels', 'rgb'"):
        parse(video(), FRAME)


@pytest.mark.parametrize("record", [b"\xff", b"hello world", video()[:-1], frames()[:-1]])
@pytest.mark.parametrize("record_format", [VIDEO, FRAME])
def test_other_data_is_no_example(record, record_format):
    with pytest.raises(ValueError, match=r"expected a tf\.(Sequence)?Example, found other data"):
        parse(record, record_format)


@given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([VIDEO, FRAME]))
def test_damaged_bytes_never_crash(junk, at, record_format):
    record = frames() if record_format.frame_features else video()
    inspect(record[:at] + junk + record[at + len(junk) :], record_format)


def framed(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field of fewer than 128 bytes."""
    return tag + bytes([len(content)]) + content


def test_unknown_fields_after_known_ones_are_ignored():
    unknown = b"\x78\x01"  # field 15, a varint
    floats = framed(b"\x0a", np.float32([0.5, 1, -2]).tobytes()) + unknown
    entry = framed(b"\x0a", b"rgb") + framed(b"\x12", framed(b"\x12", floats) + unknown)
    record = video(rgb=None) + framed(b"\x0a", framed(b"\x0a", entry)) + unknown
    assert parse(record, VIDEO).features["rgb"].tolist() == [0.5, 1.0, -2.0]
    frame = framed(b"\x0a", framed(b"\x0a", framed(b"\x0a", b"abc")))
    for feature_list in (frame, frame + unknown):
        entry = framed(b"\x0a", b"rgb") + framed(b"\x12", feature_list)
        record = frames(rgb=None, audio=AUDIO[:1]) + framed(b"\x12", framed(b"\x0a", entry))
        if feature_list == frame:
            assert parse(record, FRAME).features["rgb"].tolist() == [[97, 98, 99]]
        else:  # TensorFlow's parser rejects it
            with pytest.raises(ValueError, match="repeated, split or unknown fields"):
                parse(record, FRAME)


def test_features_of_different_lengths_are_invalid():
    reason = "same number of frames, found 2 of 'rgb', 1 of 'audio'"
    with pytest.raises(ValueError, match=reason):
        parse(frames(audio=AUDIO[:1]), FRAME)


INT64_LIST, LABELS = b"\x1a", framed(b"\x0a", b"labels")


@pytest.mark.parametrize(
    "labels",
    [
        framed(b"\x0a", b"\x03") + framed(b"\x0a", b"\x07"),  # two packed lists
        framed(b"\x0a", b"\x03") + b"\x08\x07",  # a packed one and a single value
    ],
)
def test_labels_in_several_parts_are_invalid(labels):
    feature = framed(b"\x12", framed(INT64_LIST, labels))
    record = video(labels=None) + framed(b"\x0a", framed(b"\x0a", LABELS + feature))
    with pytest.raises(ValueError, match="repeated, split or unknown fields"):
        parse(record, VIDEO)


def test_a_feature_given_twice_is_invalid():
    with pytest.raises(ValueError, match="repeated, split or unknown fields"):
        parse(video() + video(), VIDEO)


@pytest.mark.parametrize("video_id", [b"", []])
def test_an_empty_video_id_may_stand_beside_an_id(video_id):
    assert parse(video(video_id=video_id), VIDEO).id == "ab"


def test_a_video_id_of_another_type_is_invalid_beside_an_id():
    with pytest.raises(ValueError, match="'video_id' must be one non-empty byte string, found 1"):
        parse(video(video_id=[7]), VIDEO)


@given(st.lists(st.binary(min_size=3, max_size=3), min_size=1, max_size=400))
def test_frames_are_the_same_by_either_way(rows):
    array = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 3)
    assert frames(rgb=array) == frames(rgb=rows)
    audio = np.zeros([len(rows), 2], np.uint8)
    assert np.array_equal(parse(frames(rgb=array, audio=audio), FRAME).features["rgb"], array)


def test_values_that_are_not_packed():
    # Writers before proto3 repeat the tag before each value: 0x0D for FloatList.value, 0x08 for
    # Int64List.value.
    floats = b"".join(b"\x0d" + np.float32(value).tobytes() for value in (0.5, 1, -2))
    entries = [
        framed(b"\x0a", b"rgb") + framed(b"\x12", framed(b"\x12", floats)),
        framed(b"\x0a", b"labels") + framed(b"\x12", framed(b"\x1a", b"\x08\x05\x08\x07")),
    ]
    features = b"".join(framed(b"\x0a", entry) for entry in entries)
    got = parse(video(rgb=None, labels=None) + framed(b"\x0a", features), VIDEO)
    assert got.features["rgb"].tolist() == [0.5, 1.0, -2.0]
    assert got.labels.tolist() == [5, 7]


def test_a_feature_without_values():
    record = example_pb2.Example.FromString(video())
    record.features.feature["rgb"].float_list.value.clear()
    with pytest.raises(ValueError, match="'rgb' must be 3 floats, found 0"):
        parse(record.SerializeToString(), VIDEO)


def test_the_generated_messages_are_up_to_date(tmp_path):
    proto = "trainer/data/example.proto"
    # In a process of its own: protoc and TensorFlow cannot be loaded together.
    protoc = [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run([*protoc, f"--proto_path={ROOT}", f"--python_out={tmp_path}", proto], check=True)
    generated = "trainer/data/example_pb2.py"
    assert (tmp_path / generated).read_text() == (ROOT / generated).read_text()


def test_bad_records_are_named_and_left_out(tmp_path):
    bad, torn = (str(tmp_path / name) for name in ("bad", "torn"))
    write_records(bad, [video(), video(labels=[10]), video(rgb=[1.0]), video(id=b"c")])
    write_records(torn, [video()])
    with open(torn, "ab") as file:
        file.write(b"more")
    errors = []
    good = [
        number for path in (bad, torn) for number, _ in good_records(path, VIDEO, errors.append)
    ]
    assert good == [1, 4, 1]
    assert errors == [
        f"{bad}, record 2: label 10 is out of range: expected 0 to 9.",
        f"{bad}, record 3: 'rgb' must be 3 floats, found 1.",
        f"{torn}, record 2: truncated: expected a header of 12 bytes, found 4.",
    ]


def test_an_empty_feature_is_written_as_tensorflow_does():
    assert encode_example({"y": []}) == b"\x0a\x07" + b"\x0a\x05" + b"\x0a\x01y" + b"\x12\x00"


def test_the_bytes_are_tensorflows():
    import tensorflow as tf

    example = tf.train.Example.FromString(video(x="text", y=[]))
    feature = example.features.feature
    assert feature["id"].bytes_list.value == [b"ab"]
    assert feature["labels"].int64_list.value == [1, 9]
    assert feature["rgb"].float_list.value == [0.5, 1.0, -2.0]
    assert feature["x"].bytes_list.value == [b"text"]
    assert feature["y"].WhichOneof("kind") is None
    assert parse(example.SerializeToString(), VIDEO).labels.tolist() == [1, 9]

    sequence = tf.train.SequenceExample.FromString(frames())
    rgb = sequence.feature_lists.feature_list["rgb"].feature
    assert [frame.bytes_list.value[0] for frame in rgb] == [b"\0\1\2", b"\3\4\xff"]
    got = parse(sequence.SerializeToString(), FRAME)
    assert np.array_equal(got.features["audio"], AUDIO)


@pytest.mark.parametrize(
    "pattern, record_format",
    [
        ("yt8m2018/video/validate000*", RecordFormat()),
        ("yt8m2017/video/*", RecordFormat(num_classes=4716)),
        (
            "yt8m2018/frame/*",
            RecordFormat((Feature("rgb", 1024), Feature("audio", 128)), frame_features=True),
        ),
        (
            "audioset/bal_train/*00.tfrecord",
            RecordFormat((Feature("audio_embedding", 128),), frame_features=True, num_classes=527),
        ),
    ],
)
def test_real_records_are_good(real_data, pattern, record_format):
    paths = [str(path) for path in real_data.glob(pattern)]
    assert paths
    errors = []
    assert all(list(good_records(path, record_format, errors.append)) for path in paths)
    assert not errors
