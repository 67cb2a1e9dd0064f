"""The generated data set: the same bytes each time, shaped as YouTube-8M, and learnable."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components import generate_data
from components.generate_data import Classes, Dataset, class_name, generate, quantize, video_id
from pipeline.paths import ROOT
from trainer.common.errors import UserError
from trainer.data.examples import parse
from trainer.data.records import (
    MAX_VALUE,
    MIN_VALUE,
    QUANTISED_ZERO,
    QUANTUM,
    Feature,
    RecordFormat,
)
from trainer.data.tfrecord import read_records

FRAMES = (Feature("rgb", 1024), Feature("audio", 128))


def digest(folder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).iterdir())
    }


def videos(folder, pattern, record_format):
    return [
        parse(record, record_format)
        for path in sorted(Path(folder).glob(pattern))
        for record in read_records(str(path))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "video"
    generate(folder, num_videos=505, num_classes=100)
    return folder


def test_makes_shards_and_a_vocabulary(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "eval0000.tfrecord",
        "eval0001.tfrecord",
        "settings.json",
        *(f"train000{shard}.tfrecord" for shard in range(8)),
        "vocabulary.csv",
    ]


def test_video_level_records_parse_back(folder):
    found = videos(folder, "*.tfrecord", RecordFormat(num_classes=100))
    assert len(found) == 505
    assert len({video.id for video in found}) == 505
    assert {len(video.id) for video in found} == {4}
    rgb = np.stack([video.features["mean_rgb"] for video in found])
    audio = np.stack([video.features["mean_audio"] for video in found])
    assert rgb.shape == (505, 1024)
    assert audio.shape == (505, 128)
    for values, least_spread, most_spread in ((rgb, 0.35, 0.6), (audio, 0.5, 0.8)):
        assert values.min() >= MIN_VALUE
        assert values.max() <= np.float32(MAX_VALUE)
        assert least_spread < values.std() < most_spread
        assert abs(values.mean()) < 0.02


def test_frame_level_records_parse_back_with_1_to_300_frames(tmp_path):
    generate(tmp_path / "frames", num_videos=40, num_classes=10, frame_features=True)
    found = videos(tmp_path / "frames", "*.tfrecord", RecordFormat(FRAMES, True, 10))
    counts = [len(video.features["rgb"]) for video in found]
    assert counts == [len(video.features["audio"]) for video in found]
    assert len(found) == 40
    assert 1 <= min(counts) < 60
    assert 240 < max(counts) <= 300


def test_the_mean_of_the_frames_is_the_video_level_feature(tmp_path):
    same = {"num_videos": 40, "num_classes": 10, "seed": 3}
    generate(tmp_path / "video", **same)
    generate(tmp_path / "frames", frame_features=True, **same)
    whole = videos(tmp_path / "video", "train*", RecordFormat(num_classes=10))
    framed = videos(tmp_path / "frames", "train*", RecordFormat(FRAMES, True, 10))
    for video, frames in zip(whole, framed, strict=True):
        assert video.id == frames.id
        assert video.labels.tolist() == frames.labels.tolist()
        mean = frames.features["rgb"].mean(axis=0) * QUANTUM + QUANTISED_ZERO
        similarity = np.corrcoef(mean, video.features["mean_rgb"])[0, 1]
        assert similarity > (0.9 if len(frames.features["rgb"]) > 30 else 0.3)


def test_max_frames_bounds_the_frames(tmp_path):
    generate(tmp_path / "short", num_videos=10, num_classes=3, frame_features=True, max_frames=2)
    found = videos(tmp_path / "short", "*.tfrecord", RecordFormat(FRAMES, True, 3))
    assert {len(video.features["rgb"]) for video in found} == {1, 2}


def test_labels_are_about_three_a_video_distinct_and_zipf_like():
    classes = Classes(3862, seed=0)
    labels = classes.draw_labels(np.random.default_rng(0), 20000)
    per_video = (labels >= 0).sum(axis=1)
    assert 2.5 < per_video.mean() < 3.5
    assert per_video.min() == 1
    for row in labels[:500]:
        present = row[row >= 0]
        assert len(set(present)) == len(present)
    counts = np.bincount(labels[labels >= 0], minlength=3862)
    assert 0.2 < counts[0] / 20000 < 0.5  # the first is in a large share of all videos
    assert counts[:10].mean() > 5 * counts[50:100].mean() > 25 * counts[1000:].mean() > 0


def test_a_label_brings_its_ancestors():
    labels = Classes(3862, seed=0).draw_labels(np.random.default_rng(0), 1000)
    for row in labels:
        present = set(row[row >= 0].tolist())
        assert all(label // 8 - 1 in present for label in present if label >= 8)


def test_half_of_the_classes_have_two_modes():
    two = (Classes(3862, seed=0).mode != 0).any(axis=1)
    assert 0.45 < two.mean() < 0.55


def test_one_class_is_enough(tmp_path):
    generate(tmp_path / "one", num_videos=10, num_classes=1)
    found = videos(tmp_path / "one", "*.tfrecord", RecordFormat(num_classes=1))
    assert [video.labels.tolist() for video in found] == [[0]] * 10


def test_vocabulary_counts_the_training_videos(folder):
    rows = list(csv.DictReader((folder / "vocabulary.csv").open()))
    labels = [
        label
        for video in videos(folder, "train*.tfrecord", RecordFormat(num_classes=100))
        for label in video.labels
    ]
    counts = np.bincount(labels, minlength=100)
    assert [int(row["Index"]) for row in rows] == list(range(100))
    assert [int(row["TrainVideoCount"]) for row in rows] == counts.tolist()
    assert rows[0]["Name"] == "Game"
    assert rows[70]["KnowledgeGraphId"] == "/generated/0070"


def test_names_and_ids_are_distinct():
    assert len({class_name(index) for index in range(8000)}) == 8000
    assert len({video_id(index, seed=5) for index in range(20000)}) == 20000


@pytest.mark.parametrize("frame_features", [False, True])
def test_the_same_settings_give_the_same_bytes(tmp_path, frame_features):
    settings = {"num_videos": 20, "num_classes": 30, "frame_features": frame_features}
    first = digest(generate(tmp_path / "first", **settings))
    assert digest(generate(tmp_path / "second", **settings)) == first
    other = digest(generate(tmp_path / "other", seed=1, **settings))
    assert not set(other.values()) & set(first.values())


def test_the_second_call_does_nothing(tmp_path, monkeypatch):
    generate(tmp_path / "set", num_videos=10, num_classes=3)
    before = digest(tmp_path / "set")
    monkeypatch.setattr(generate_data, "_create", pytest.fail)
    generate(tmp_path / "set", num_videos=10, num_classes=3)
    assert digest(tmp_path / "set") == before


def test_other_settings_in_the_same_folder_are_an_error(folder):
    with pytest.raises(UserError, match=r"other settings.*'num_classes': 7.*'num_classes': 100"):
        generate(folder, num_videos=505, num_classes=7)


def test_a_folder_with_something_else_is_an_error(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a generated dataset"):
        generate(tmp_path, num_videos=10)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not a generated dataset"):
        generate(tmp_path / "file", num_videos=10)
    with pytest.raises(UserError, match="Cannot write the dataset"):
        generate(tmp_path / "file" / "below", num_videos=10)


def test_a_killed_call_leaves_no_half_set(tmp_path, monkeypatch):
    def killed(path, records):
        if Path(path).name == "eval0000.tfrecord":
            raise KeyboardInterrupt
        Path(path).write_bytes(b"".join(records))

    with monkeypatch.context() as patch:
        patch.setattr(generate_data, "write_records", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "set", num_videos=10, num_classes=3)
    assert list(tmp_path.iterdir()) == []
    generate(tmp_path / "set", num_videos=10, num_classes=3)
    assert (tmp_path / "set" / "vocabulary.csv").exists()


def test_of_two_calls_at_once_the_first_to_end_wins(tmp_path, monkeypatch):
    write = generate_data._write

    def write_slowly(dataset, unfinished):
        write(dataset, unfinished)
        monkeypatch.setattr(generate_data, "_write", write)
        generate(tmp_path / "set", num_videos=10, num_classes=3)  # the other call

    monkeypatch.setattr(generate_data, "_write", write_slowly)
    generate(tmp_path / "set", num_videos=10, num_classes=3)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_quantize_is_the_inverse_of_the_official_range():
    values = np.arange(256) * QUANTUM + QUANTISED_ZERO
    assert quantize(values).tolist() == list(range(256))
    assert quantize(np.array([-9.0, 0.0, 9.0])).tolist() == [0, 127, 255]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_videos": 9}, "--num_videos must be 10 to 14776336; got 9"),
        ({"num_videos": 14776337}, "got 14776337"),
        ({"num_classes": 0}, "--num_classes must be at least 1; got 0"),
        ({"max_frames": 0}, "--max_frames must be at least 1; got 0"),
        ({"seed": -1}, "--seed must be at least 0; got -1"),
        ({"directory": ""}, "--directory must name a local folder; got ''"),
        ({"directory": "gs://bucket/data"}, "--directory must name a local folder"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        Dataset(**{"directory": "somewhere", **settings})


def test_the_shared_part_shows_a_class_and_the_regimes_cancel_out():
    two_modes = next(seed for seed in range(20) if Classes(1, seed).mode.any())
    classes = Classes(1, two_modes)
    rng = np.random.default_rng(0)
    present = rng.random(4000) < 0.5
    features = classes.draw_features(rng, np.where(present, 0, -1)[:, None]) / classes.scale
    along_shared, along_mode = features @ classes.shared[0], features @ classes.mode[0]
    noise = along_shared[~present].std()
    assert along_shared[present].mean() > along_shared[~present].mean() + 2 * noise
    assert abs(along_mode[present].mean()) < 0.2 * abs(along_mode[present]).mean()
    assert abs(along_mode[present]).mean() > 3 * abs(along_mode[~present]).mean()


def test_command(tmp_path):
    command = [sys.executable, "-m", "components.generate_data"]
    arguments = [f"--directory={tmp_path / 'set'}", "--num_videos=10", "--num_classes=3"]
    done = subprocess.run(command + arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eval0001.tfrecord: 1 videos" in done.stdout
    again = [*command, *arguments, "--num_classes=4"]
    refused = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr
