"""Every kind of damage, in a file of its own beside good ones: each is found, and named exactly."""

import gzip
import json

import numpy as np
import pytest

from components.validate_data.findings import KINDS
from components.validate_data.references import Settings
from components.validate_data.validation import validate
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import frame

FEATURES = (Feature("rgb", 4), Feature("audio", 2))
VIDEO = RecordFormat(FEATURES, num_classes=4)
FRAME = RecordFormat(FEATURES, frame_features=True, num_classes=4)
WHOLE_FILE = 0


def video(video_id: str, **changes) -> bytes:
    rng = np.random.default_rng(list(video_id.encode()))
    features = {
        "id": video_id,
        "labels": [0, 1, 2],
        "rgb": rng.uniform(-2, 2, 4),
        "audio": rng.uniform(-2, 2, 2),
    }
    return frame(encode_example(features | changes))


def frames(video_id: str, num_frames: int = 5, context=None, **changes) -> bytes:
    rng = np.random.default_rng(list(video_id.encode()))
    lists = {
        "rgb": rng.integers(0, 256, (num_frames, 4), np.uint8),
        "audio": rng.integers(0, 256, (num_frames, 2), np.uint8),
    }
    context = {"id": video_id, "labels": [0, 1, 2]} | (context or {})
    return frame(encode_sequence_example(context, lists | changes))


def without(key: str, record: bytes) -> bytes:
    """A record whose feature `key` goes by another name, of the same length."""
    data = record[12:-4].replace(key.encode(), b"?" * len(key))
    return frame(data)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# File -> (its bytes, [(kind of finding, record, id)]).
VIDEO_FILES = {
    "train-not_tfrecord": (b"id,labels\n", [("not_tfrecord", 1, "")]),
    "train-noise": (bytes(range(128, 256)), [("not_tfrecord", 1, "")]),
    "train-gzip": (gzip.compress(video("c1")), [("compressed", 1, "")]),
    "train-empty": (b"", [("empty_file", WHOLE_FILE, "")]),
    "train-truncated": (video("t1") + video("t2")[:-9], [("truncated", 2, "")]),
    "train-length": (video("h1") + flip(video("h2"), 3), [("header", 2, "")]),
    "train-crc": (
        video("x1") + flip(video("x2"), 30) + video("x3") + flip(video("x4"), -1) + video("x5"),
        [("crc", 2, ""), ("crc", 4, "")],
    ),
    "train-junk": (frame(b"junk") + video("j2"), [("not_an_example", 1, "")]),
    "train-no_id": (
        without("id", video("i1")) + video("i2", id=[]),
        [("no_id", 1, ""), ("no_id", 2, "")],
    ),
    "train-unusual_id": (video("q,1"), [("unusual_id", 1, "q,1")]),
    "train-missing": (video("m1") + without("rgb", video("m2")), [("missing_feature", 2, "m2")]),
    "train-type": (
        video("y1", rgb=[1, 2, 3, 4]) + video("y2", labels=[1.0]),
        [("wrong_type", 1, "y1"), ("wrong_type", 2, "y2")],
    ),
    "train-size": (video("s1", audio=[0.5, 1.0, 1.5]), [("wrong_size", 1, "s1")]),
    "train-finite": (
        video("f1", rgb=[0, 1, np.nan, 2.0]) + video("f2", audio=[np.inf, 1.0]),
        [("not_finite", 1, "f1"), ("not_finite", 2, "f2")],
    ),
    "train-label": (
        video("l1", labels=[4]) + video("l2", labels=[-1]) + video("l3", labels=[1 << 40]),
        [("label_out_of_range", i, f"l{i}") for i in (1, 2, 3)],
    ),
    "train-several": (
        video("v1", labels=[9], rgb=[0.5]),
        [("label_out_of_range", 1, "v1"), ("wrong_size", 1, "v1")],
    ),
    "train-unlabelled": (
        video("u1", labels=[]) + without("labels", video("u2")),
        [("unlabelled", 1, "u1"), ("unlabelled", 2, "u2"), ("extra_feature", 2, "u2")],
    ),
    "train-repeated": (video("r1", labels=[1, 2, 1]), [("repeated_label", 1, "r1")]),
    "train-extra": (video("e1", more=[1.0]), [("extra_feature", 1, "e1")]),
    "train-constant": (
        video("k1", rgb=[0.0] * 4) + video("k2", audio=[1.5, 1.5]),
        [("constant", 1, "k1"), ("constant", 2, "k2")],
    ),
    "train-range": (
        video("o1", rgb=[0.5, -2.1, 1, 1]) + video("o2", audio=[2.02, 1.0]),
        [("out_of_range", 1, "o1"), ("out_of_range", 2, "o2")],
    ),
    "train-twice": (video("d1") + video("d2") + video("d1"), [("duplicate", 3, "d1")]),
    "train-size-of-file": (
        b"".join(video(f"big{i}") for i in range(40)),
        [("file_size", WHOLE_FILE, "")],
    ),
    "eval-leak": (video("g2"), [("leak", 1, "g2")]),
    "eval-label": (video("n1", labels=[3]), []),  # class 3 is in eval alone: see the last test
}
FRAME_FILES = {
    "train-crc": (frames("x1") + flip(frames("x2"), 60) + frames("x3"), [("crc", 2, "")]),
    "train-none": (frames("z1", num_frames=0), [("no_frames", 1, "z1"), ("no_frames", 1, "z1")]),
    "train-bytes": (
        frames("b1", rgb=[b"abcd", b"abc"]) + frames("b2", rgb=np.ones((5, 3), np.uint8)),
        [("wrong_size", 1, "b1"), ("wrong_size", 2, "b2")],
    ),
    "train-type": (frames("y1", audio=[1.5, 2.5]), [("wrong_type", 1, "y1")]),
    "train-missing": (without("audio", frames("m1")), [("missing_feature", 1, "m1")]),
    "train-level": (video("w1"), [("missing_feature", 1, "w1"), ("missing_feature", 1, "w1")]),
    "train-lengths": (
        frames("a1", audio=np.arange(8, dtype=np.uint8).reshape(4, 2)),
        [("different_lengths", 1, "a1")],
    ),
    "train-many": (frames("q1", num_frames=301), [("many_frames", 1, "q1")]),
    "train-constant": (
        frames("k1", rgb=np.zeros((5, 4), np.uint8)),
        [("constant", 1, "k1")],
    ),
    "train-extra": (frames("e1", context={"start": 1.5}), [("extra_feature", 1, "e1")]),
}


def run(folder, files: dict, record_format: RecordFormat) -> list[dict]:
    """The findings of a run over the files, beside good ones of both splits."""
    make = frames if record_format.frame_features else video
    good = {
        "train-good": b"".join(make(f"g{i}") for i in range(1, 4)),
        "eval-good": b"".join(make(f"G{i}") for i in range(1, 4)),
    }
    for name, data in (good | {name: data for name, (data, _) in files.items()}).items():
        (folder / name).write_bytes(data)
    inputs = {split: f"{folder}/{split}-*" for split in ("train", "eval")}
    validate(inputs, str(folder / "out"), record_format, settings=Settings(fail_on="never"))
    return json.loads((folder / "out" / "anomalies.json").read_text())["anomalies"]


@pytest.fixture(scope="module")
def video_findings(tmp_path_factory):
    return run(tmp_path_factory.mktemp("video"), VIDEO_FILES, VIDEO)


@pytest.fixture(scope="module")
def frame_findings(tmp_path_factory):
    return run(tmp_path_factory.mktemp("frame"), FRAME_FILES, FRAME)


def places(findings: list[dict], name: str) -> list[tuple]:
    """(kind, record, id) of each finding in the file called `name`."""
    return sorted(
        (row["kind"], example["record"], example["id"])
        for row in findings
        for example in row["examples"]
        if example["file"].endswith(f"/{name}")
    )


@pytest.mark.parametrize("name", VIDEO_FILES)
def test_video_level(video_findings, name):
    assert places(video_findings, name) == sorted(VIDEO_FILES[name][1])


@pytest.mark.parametrize("name", FRAME_FILES)
def test_frame_level(frame_findings, name):
    assert places(frame_findings, name) == sorted(FRAME_FILES[name][1])


def test_nothing_is_wrong_with_the_good_files(video_findings, frame_findings):
    for findings in (video_findings, frame_findings):
        assert places(findings, "eval-good") == []
    assert places(frame_findings, "train-good") == []
    assert places(video_findings, "train-good") == []


def test_what_is_wrong_with_a_split(video_findings):
    whole = {row["kind"]: row for row in video_findings if row["kind"] == "untrained_class"}
    assert whole["untrained_class"]["count"] == 1
    assert whole["untrained_class"]["examples"][0]["reason"] == "class    3, 'class 3'"


def test_no_kind_is_left_untried(video_findings, frame_findings):
    tried = {row["kind"] for row in video_findings + frame_findings}
    elsewhere = {
        "unreadable",
        "no_labels",
        "constant_dimension",
        "label_drift",
        "feature_drift",
        "schema",
    }
    assert tried | elsewhere >= KINDS.keys()
