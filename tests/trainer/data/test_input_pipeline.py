"""Reading shards: every video once an epoch, in an order that can be taken up anywhere."""

import dataclasses
import gzip
import os
import shutil
import tempfile
import threading
from collections import Counter
from glob import glob
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.api_core.exceptions import ServiceUnavailable
from google.cloud.storage import Blob

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import examples, input_pipeline, tfrecord
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.input_pipeline import Position
from trainer.data.records import MAX_FRAMES, Feature, RecordFormat
from trainer.data.tfrecord import read_records, write_records

VIDEO = RecordFormat((Feature("rgb", 3), Feature("audio", 2)), False, 5)
FRAME = dataclasses.replace(VIDEO, frame_features=True)
BEGINNING = Position()


def epochs_of(files, num_epochs, start=BEGINNING, batch_size=4, seed=0, readers=2, format_=VIDEO):
    """(epoch, ids) of each batch, in order."""
    batches = input_pipeline.training_batches(
        files, format_, batch_size, num_epochs, readers, seed, start
    )
    return [(int(epoch), batch["id"].numpy().tolist()) for batch, epoch in batches]


def ids_in(batches, epoch=None):
    return [i for e, ids in batches for i in ids if epoch in (None, e)]


@pytest.fixture(params=[VIDEO, FRAME], ids=["video level", "frame level"])
def data(request, video_shards, frame_shards):
    """(files, record format, ids in the order of the files)."""
    files = sorted(glob(frame_shards if request.param.frame_features else video_shards))
    ids = [
        input_pipeline.parse(tf.constant([record]), request.param)["id"].numpy()[0]
        for file in files
        for record in read_records(file)
    ]
    return files, request.param, ids


@pytest.fixture
def files(video_shards):
    return sorted(glob(video_shards))


def test_every_video_is_read_once_an_epoch(data):
    files, format_, ids = data
    batches = epochs_of(files, 3, format_=format_)
    assert [epoch for epoch, _ in batches] == sorted(epoch for epoch, _ in batches)
    for epoch in range(3):
        assert Counter(ids_in(batches, epoch)) == Counter(ids)


def test_batches_are_full_but_for_an_epochs_last(files):
    sizes = [(epoch, len(ids)) for epoch, ids in epochs_of(files, 2, batch_size=10)]
    assert sizes == [(e, n) for e in range(2) for n in (10, 10, 10, 7)]  # of 37 videos


def test_every_epoch_has_an_order_of_its_own(files):
    batches = epochs_of(files, 3)
    orders = [ids_in(batches, epoch) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    first_shards = {order[0].split(b"-")[0] for order in orders}
    assert len(first_shards) > 1  # shards are drawn at random too


def test_videos_are_mixed_across_shards(files):
    shards = [video_id.split(b"-")[0] for video_id in ids_in(epochs_of(files, 1))]
    changes = sum(a != b for a, b in pairwise(shards))
    assert changes > 15  # of 36; 4 when shard follows shard


def test_the_same_settings_give_the_same_order(data):
    files, format_, _ = data
    assert epochs_of(files, 2, format_=format_) == epochs_of(files, 2, format_=format_)


def test_another_seed_gives_another_order(files):
    assert epochs_of(files, 1, seed=0) != epochs_of(files, 1, seed=1)


def test_the_order_depends_on_neither_batch_size_nor_number_of_epochs(files):
    expected = ids_in(epochs_of(files, 2, batch_size=4))
    assert ids_in(epochs_of(files, 2, batch_size=7)) == expected
    assert ids_in(epochs_of(files, 3, batch_size=1))[: len(expected)] == expected


@pytest.mark.parametrize("seed", [0, 2**31, 2**62])
def test_any_seed_will_do(files, seed):
    assert len(set(ids_in(epochs_of(files, 1, seed=seed)))) == 37


@pytest.mark.parametrize("readers", [1, 2, 8])
def test_any_number_of_readers_reads_every_video_once(files, readers):
    assert len(set(ids_in(epochs_of(files, 1, readers=readers)))) == 37


def test_resuming_anywhere_gives_the_rest_of_the_same_sequence(data):
    files, format_, ids = data
    whole = epochs_of(files, 2, batch_size=12, format_=format_)
    epoch, done = 0, 0
    for i, (batch_epoch, batch) in enumerate(whole):
        done = done if batch_epoch == epoch else 0
        epoch = batch_epoch
        assert (
            epochs_of(files, 2, Position(epoch, done), batch_size=12, format_=format_) == whole[i:]
        )
        done += len(batch)
    assert epochs_of(files, 2, Position(1, len(ids)), batch_size=12, format_=format_) == []
    assert epochs_of(files, 2, Position(2), batch_size=12, format_=format_) == []


def test_resuming_at_an_epochs_end_goes_on_with_the_next(files):
    whole = epochs_of(files, 3)
    assert epochs_of(files, 3, Position(0, 37)) == [b for b in whole if b[0] > 0]
    assert epochs_of(files, 3, Position(1)) == [b for b in whole if b[0] > 0]


def test_resuming_with_another_batch_size_still_reads_every_video_once(files):
    before = epochs_of(files, 1, batch_size=4)[:3]
    after = epochs_of(files, 1, Position(0, 12), batch_size=5)
    assert ids_in(before) + ids_in(after) == ids_in(epochs_of(files, 1))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_reading_to_evaluate_keeps_the_order_of_files_and_records(data, batch_size):
    files, format_, ids = data
    batches = input_pipeline.batches(files, format_, batch_size)
    assert [i for batch in batches for i in batch["id"].numpy()] == ids


@pytest.mark.parametrize("readers", [2, 8])
def test_reading_to_evaluate_reads_every_video_once_with_any_number_of_readers(data, readers):
    files, format_, ids = data
    batches = input_pipeline.batches(files, format_, 4, readers)
    assert Counter(i for batch in batches for i in batch["id"].numpy()) == Counter(ids)


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_as_many_files_are_read_at_once_as_there_are_readers(tmp_path, readers):
    # 16 records of each in turn.
    paths = []
    for file in "abc":
        paths.append(f"{tmp_path}/{file}.tfrecord")
        write_records(paths[-1], [video(id=file.encode())] * 32)
    batches = input_pipeline.batches(paths, VIDEO, 16, readers)
    order = b"".join(batch["id"].numpy()[0] for batch in batches).decode()
    assert order == {1: "aabbcc", 2: "ababcc", 3: "abcabc"}[readers]


# What is in a batch.


def parse(*records: bytes, format_=VIDEO) -> dict[str, np.ndarray]:
    batch = input_pipeline.parse(tf.constant(list(records)), format_)
    batch |= input_pipeline.model_inputs(batch)  # its features in one
    return {name: value.numpy() for name, value in batch.items()}


def video(**changes) -> bytes:
    """A record that fits VIDEO, but for the changes; None: without that feature."""
    features = {"id": b"a", "labels": [1, 4], "rgb": [0.5, 1.0, -2.0], "audio": [0.0, 0.25]}
    return encode_example({k: v for k, v in (features | changes).items() if v is not None})


def frames(num_frames: int, context=None, **changes) -> bytes:
    """A record that fits FRAME, but for the changes; frame n is [n, n, n] and [100, 100 + n]."""
    number = np.arange(num_frames) % 256
    lists = {
        "rgb": np.repeat(number[:, None], 3, axis=1).astype(np.uint8),
        "audio": np.stack([np.full(num_frames, 100), (100 + number) % 256], 1).astype(np.uint8),
    }
    return encode_sequence_example(context or {"id": b"a", "labels": [1, 4]}, lists | changes)


def test_a_video_level_batch():
    batch = parse(video(), video(id=b"b", labels=[2], rgb=[3.0, 4.0, 5.0]))
    assert batch["id"].tolist() == [b"a", b"b"]
    assert batch["features"].dtype == np.float32
    assert batch["features"].tolist() == [[0.5, 1.0, -2.0, 0.0, 0.25], [3.0, 4.0, 5.0, 0.0, 0.25]]
    assert "num_frames" not in batch


def test_features_are_concatenated_in_the_order_of_the_flags():
    format_ = RecordFormat((Feature("audio", 2), Feature("rgb", 3)), False, 5)
    assert parse(video(), format_=format_)["features"].tolist() == [[0.0, 0.25, 0.5, 1.0, -2.0]]


def label_sets(batch):
    """Each row's labels as a sorted list, after checking that they are distinct."""
    for row in batch["labels"]:
        num_labels = (row >= 0).sum()
        assert (row[row < 0] == -1).all()
        assert len(set(row[row >= 0])) == num_labels
    return [sorted(row[row >= 0].tolist()) for row in batch["labels"]]


@pytest.mark.parametrize(
    "record, format_",
    [(video, VIDEO), (lambda **c: frames(2, c), FRAME)],
    ids=["video level", "frame level"],
)
def test_labels_are_distinct_and_padded_with_minus_1(record, format_):
    given = [[1, 4], [], [0], [2, 0, 2, 4, 2], [3, 3]]
    batch = parse(*[record(id=b"a", labels=labels) for labels in given], format_=format_)
    assert batch["labels"].dtype == np.int32
    assert label_sets(batch) == [[1, 4], [], [0], [0, 2, 4], [3]]


def test_a_video_without_the_labels_feature_has_no_labels():
    assert label_sets(parse(video(labels=None), video(labels=[3]))) == [[], [3]]


def test_a_batch_of_videos_without_labels():
    assert label_sets(parse(video(labels=[]), video(labels=None))) == [[], []]


def test_all_labels_at_once():
    assert label_sets(parse(video(labels=range(5)))) == [[0, 1, 2, 3, 4]]


def test_video_id_stands_in_for_id():
    records = [video(id=None, video_id=b"old"), video(id=b"new")]
    assert parse(*records)["id"].tolist() == [b"old", b"new"]
    records = [frames(2, {"video_id": b"old", "labels": [1]}), frames(2)]
    assert parse(*records, format_=FRAME)["id"].tolist() == [b"old", b"a"]


def test_id_is_preferred_to_video_id():
    assert parse(video(id=b"new", video_id=b"old"))["id"].tolist() == [b"new"]


@pytest.mark.parametrize("num_frames", [1, 2, 299, 300])
def test_a_frame_level_video_is_followed_by_zeros(num_frames):
    batch = parse(frames(num_frames), format_=FRAME)
    features = batch["features"]
    num_slots = {1: 10, 2: 10, 299: 300, 300: 300}[num_frames]
    assert (features.dtype, features.shape) == (np.uint8, (1, num_slots, 5))
    assert batch["num_frames"].dtype == np.int32
    assert batch["num_frames"].tolist() == [num_frames]
    number = np.arange(num_frames) % 256
    expected = np.stack([number, number, number, np.full(num_frames, 100), (100 + number) % 256], 1)
    assert np.array_equal(features[0, :num_frames], expected)
    assert not features[0, num_frames:].any()


@pytest.mark.parametrize("num_frames", [301, 1000])
def test_frames_after_the_300th_are_left_out(num_frames):
    batch = parse(frames(num_frames), format_=FRAME)
    assert batch["num_frames"].tolist() == [300]
    assert np.array_equal(batch["features"], parse(frames(300), format_=FRAME)["features"])


def test_videos_of_different_lengths_share_a_batch():
    batch = parse(frames(2), frames(310), frames(1), format_=FRAME)
    assert batch["num_frames"].tolist() == [2, 300, 1]
    assert batch["features"].shape == (3, MAX_FRAMES, 5)
    assert batch["features"][:, :3, 4].tolist() == [[100, 101, 0], [100, 101, 102], [100, 0, 0]]


def test_what_else_is_in_a_record_does_not_matter():
    assert np.array_equal(parse(video(more=[1.5]))["features"], parse(video())["features"])
    more = frames(2, more=np.ones([7, 9], np.uint8))
    assert np.array_equal(
        parse(more, format_=FRAME)["features"], parse(frames(2), format_=FRAME)["features"]
    )


@pytest.mark.parametrize("format_", [VIDEO, FRAME], ids=["video level", "frame level"])
def test_what_a_model_is_given_fits_its_specification(format_):
    batch = input_pipeline.parse(tf.constant([frames(3) if format_ is FRAME else video()]), format_)
    inputs, spec = input_pipeline.model_inputs(batch), input_pipeline.model_input_spec(format_)
    assert inputs.keys() == spec.keys()
    assert all(spec[name].is_compatible_with(inputs[name]) for name in spec)


@pytest.mark.parametrize("format_", [VIDEO, FRAME], ids=["video level", "frame level"])
def test_a_batch_of_no_videos_is_like_any_other(format_):
    batch = input_pipeline.parse(tf.constant([frames(3) if format_ is FRAME else video()]), format_)
    empty = input_pipeline.empty_batch(format_)
    assert empty.pop("location").shape == [0]
    tf.nest.assert_same_structure(batch, empty)
    for some, none in zip(tf.nest.flatten(batch), tf.nest.flatten(empty), strict=True):
        assert (none.dtype, none.shape) == (some.dtype, [0, *some.shape[1:]])


# What cannot be read is named: file, record and reason.


def read_all(files, format_):
    with input_pipeline.explained():
        return [batch["id"].numpy() for batch in input_pipeline.batches(files, format_, 2)]


def reason_alone(value) -> str:
    """Names a case by the reason, and not by the record's bytes."""
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(
    "record, reason",
    [
        (video(rgb=[1.0, 2.0]), "'rgb' must be 3 floats, found 2"),
        (video(rgb=[1.0] * 4), "'rgb' must be 3 floats, found 4"),
        (video(audio=None), "no video-level feature 'audio'"),
        (video(rgb=[1, 2, 3]), "'rgb' must be 3 floats, found 3 int64 values"),
        (video(labels=[1, 5]), "label 5 is out of range: expected 0 to 4"),
        (video(labels=[-1]), "label -1 is out of range: expected 0 to 4"),
        (video(labels=[2**40]), "label 1099511627776 is out of range"),
        (video(labels=[b"cat"]), "'labels' must be int64"),
        (b"\xff" * 20, "expected a tf.Example, found other data"),
        (video(id=None), "no id: expected 'id' or 'video_id', found"),
        (video(id=b""), "'id' must be one non-empty byte string, found an empty byte string"),
        (video(video_id=[7]), "'video_id' must be one non-empty byte string, found 1 int64 value"),
    ],
    ids=reason_alone,
)
def test_a_bad_video_level_record_is_named(tmp_path, record, reason):
    good, bad = str(tmp_path / "good.tfrecord"), str(tmp_path / "bad.tfrecord")
    write_records(good, [video(), video()])
    write_records(bad, [video(), video(), video(), record, video()])
    with pytest.raises(UserError) as raised:
        read_all([good, bad], VIDEO)
    assert str(raised.value).startswith(f"{bad}, record 4: {reason}")


@pytest.mark.parametrize(
    "record, reason",
    [
        (frames(2, rgb=np.ones([2, 4], np.uint8)), "frame 1 of 'rgb' must be 3 bytes, found 4"),
        (frames(2, rgb=np.ones([3, 6], np.uint8)), "frame 1 of 'rgb' must be 3 bytes, found 6"),
        (frames(2, {"id": b"a", "labels": [5]}), "label 5 is out of range: expected 0 to 4"),
        (frames(2, rgb=[]), "'rgb' has no frames, expected some"),
        (video(), "no frame-level feature 'rgb'"),
        (
            frames(10, audio=np.ones([2, 2], np.uint8)),
            "all features must have the same number of frames, found 10 of 'rgb', 2 of 'audio'",
        ),
    ],
    ids=reason_alone,
)
def test_a_bad_frame_level_record_is_named(tmp_path, record, reason):
    bad = str(tmp_path / "bad.tfrecord")
    write_records(bad, [frames(2), record])
    with pytest.raises(UserError) as raised:
        read_all([bad], FRAME)
    assert str(raised.value).startswith(f"{bad}, record 2: {reason}")


def test_frames_for_a_video_level_model_are_named(tmp_path):
    path = str(tmp_path / "frames.tfrecord")
    write_records(path, [frames(2)])
    with pytest.raises(UserError, match=r"record 1: no video-level feature 'rgb'"):
        read_all([path], VIDEO)


def test_a_truncated_shard_is_named(tmp_path):
    path = tmp_path / "cut.tfrecord"
    write_records(str(path), [video()] * 3)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"cut\.tfrecord, record 3: truncated"):
        read_all([str(path)], VIDEO)


@pytest.mark.parametrize("num_bytes", range(1, 12))
def test_a_shard_cut_within_a_records_header_is_named(tmp_path, num_bytes):
    path = tmp_path / "cut.tfrecord"
    write_records(str(path), [video()] * 3)
    size = path.stat().st_size
    write_records(str(path), [video()] * 4)
    path.write_bytes(path.read_bytes()[: size + num_bytes])
    reason = (
        rf"cut\.tfrecord, record 4: truncated: expected a header of 12 bytes, found {num_bytes}"
    )
    with pytest.raises(UserError, match=reason):
        read_all([str(path)], VIDEO)


def test_only_the_bad_record_is_searched_for(tmp_path, monkeypatch):
    good, bad = str(tmp_path / "good.tfrecord"), str(tmp_path / "bad.tfrecord")
    write_records(good, [video()] * 50)
    write_records(bad, [video(), video(labels=[5])])
    inspected = []
    inspect = examples.inspect
    monkeypatch.setattr(examples, "inspect", lambda *a: inspected.append(a) or inspect(*a))
    with pytest.raises(UserError, match=r"bad\.tfrecord, record 2: label 5"):
        read_all([good, bad], VIDEO)
    assert len(inspected) == 2  # of the batch with the record


def test_no_file_is_searched_after_a_fault_of_the_device(tmp_path, monkeypatch, files):
    monkeypatch.setattr(tfrecord, "read_records", None)
    batches = iter(input_pipeline.batches(files, VIDEO, 2))
    with pytest.raises(tf.errors.InternalError), input_pipeline.explained():
        next(batches)
        raise tf.errors.InternalError(None, None, "CUDA_ERROR_ILLEGAL_ADDRESS")


@pytest.mark.parametrize("longest, slots", [(1, 10), (10, 10), (11, 20), (170, 240), (500, 300)])
def test_frames_are_padded_to_the_longest_video_of_the_batch(longest, slots):
    batch = parse(frames(1), frames(longest), format_=FRAME)
    assert batch["features"].shape == (2, slots, 5)
    assert batch["num_frames"].tolist() == [1, min(longest, 300)]


@pytest.mark.parametrize("done", [0, 4, 20, 36, 37, 40])
def test_files_that_were_read_completely_are_not_read_again(data, done, monkeypatch):
    monkeypatch.setattr(input_pipeline, "SHUFFLED_VIDEOS", 3)
    monkeypatch.setattr(input_pipeline, "SHUFFLED_FRAME_LEVEL_VIDEOS", 3)
    opened = []
    original = input_pipeline._Shards._open_eagerly

    def open_eagerly(self, number, num_placeholders):
        opened.extend([int(number)] * (not num_placeholders))
        return original(self, number, num_placeholders)

    monkeypatch.setattr(input_pipeline._Shards, "_open_eagerly", open_eagerly)
    files, format_, _ = data
    done = min(done, len(data[2]))
    counts = [tfrecord.num_records(file) for file in files]
    start = Position(0, done)
    expected = epochs_of(files, 2, start, format_=format_)
    num_opened = len(opened)
    opened.clear()
    batches = input_pipeline.training_batches(files, format_, 4, 2, 2, 0, start, num_records=counts)
    assert [(int(epoch), batch["id"].numpy().tolist()) for batch, epoch in batches] == expected
    if done == len(data[2]):
        assert len(opened) == num_opened - len(files)


@pytest.fixture
def remote_files(files, gcs_bucket):
    """The files, in a bucket."""
    storage.copy_tree(str(Path(files[0]).parent), f"{gcs_bucket}/data")
    return [f"{gcs_bucket}/data/{Path(file).name}" for file in files]


def test_files_in_a_bucket_are_read_in_the_same_order(files, remote_files):
    assert epochs_of(remote_files, 2) == epochs_of(files, 2)


def test_as_many_files_are_downloaded_at_once_as_there_are_readers(remote_files, monkeypatch):
    together = threading.Barrier(len(remote_files))
    download = storage.download

    def download_together(*args):
        together.wait(timeout=120)
        download(*args)

    monkeypatch.setattr(storage, "download", download_together)
    assert len(ids_in(epochs_of(remote_files, 1, readers=len(remote_files)))) == 37


def test_downloads_leave_nothing_behind(remote_files, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    num_open = len(os.listdir("/proc/self/fd"))
    batches = iter(input_pipeline.batches(remote_files, VIDEO, 4))
    next(batches)
    assert not os.listdir(tmp_path)
    list(batches)
    assert len(os.listdir("/proc/self/fd")) <= num_open + 3  # none of the 5 files


def test_a_damaged_file_in_a_bucket_is_named(remote_files):
    content = storage.read_bytes(remote_files[2])
    storage.write_bytes(remote_files[2], content + b"junk")
    message = rf"^{remote_files[2]}, record 13: truncated: expected a header of 12 bytes, found 4"
    with pytest.raises(UserError, match=message):
        read_all(remote_files, VIDEO)
    storage.write_bytes(remote_files[2], content[:100] + b"?" + content[101:])
    with pytest.raises(UserError, match=rf"^{remote_files[2]}, record \d: "):
        read_all(remote_files, VIDEO)


def test_a_flaky_server_slows_reading_and_changes_nothing(files, remote_files, monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    expected, failures = epochs_of(files, 2), []
    download = Blob.download_to_file

    def flaky(self, target, **options):
        if len(failures) < 6 and len(failures) % 2 == len(self.name) % 2:
            target.write(b"half of it")
            failures.append(self.name)
            raise ServiceUnavailable("try again")
        failures.append(None)
        return download(self, target, **options)

    monkeypatch.setattr(Blob, "download_to_file", flaky)
    assert epochs_of(remote_files, 2) == expected
    assert any(failures)


def test_a_damaged_shard_is_named(tmp_path):
    path = tmp_path / "damaged.tfrecord"
    write_records(str(path), [video()] * 3)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.tfrecord, record 2: .*CRC"):
        read_all([str(path)], VIDEO)


def test_a_text_file_is_named(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("These are not the records you are looking for.\n")
    with pytest.raises(UserError, match=r"notes\.txt, record 1: not a TFRecord file, but text"):
        read_all([str(path)], VIDEO)


def test_a_compressed_shard_is_named(tmp_path):
    write_records(str(tmp_path / "plain.tfrecord"), [video()] * 3)
    path = tmp_path / "packed.tfrecord"
    path.write_bytes(gzip.compress((tmp_path / "plain.tfrecord").read_bytes()))
    with pytest.raises(UserError, match=r"packed\.tfrecord, record 1: gzip-compressed"):
        read_all([str(path)], VIDEO)


def test_a_shard_that_vanished_is_named(tmp_path, files):
    copies = [shutil.copy(file, tmp_path) for file in files]
    Path(copies[1]).unlink()
    with pytest.raises(UserError, match=r"train1\.tfrecord"):
        read_all(copies, VIDEO)


def test_an_empty_shard_beside_good_ones_is_read_as_no_videos(tmp_path, files):
    empty = str(tmp_path / "empty.tfrecord")
    write_records(empty, [])
    assert len(np.concatenate(read_all([files[0], empty, files[1]], VIDEO))) == 10
    assert len(set(ids_in(epochs_of([*files, empty], 1)))) == 37


def test_a_folder_among_the_shards_is_named(tmp_path, files):
    (tmp_path / "folder.tfrecord").mkdir()
    with pytest.raises(UserError, match=r"folder\.tfrecord"):
        read_all([*files, str(tmp_path / "folder.tfrecord")], VIDEO)


def test_a_fault_of_ours_is_not_explained_away(files):
    with pytest.raises(tf.errors.InvalidArgumentError), input_pipeline.explained():
        tf.reshape(tf.zeros([3]), [2])


def test_too_little_memory_is_named():
    message = "from the graph\nOOM when allocating tensor with shape[9] on CPU\n\t [[node]]"
    with (
        pytest.raises(
            UserError, match=r"^Out of memory\. Reduce --batch_size\. OOM .* shape\[9\] on CPU$"
        ),
        input_pipeline.explained(),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, message)


@pytest.mark.slow
def test_too_large_a_tensor_is_named():
    with (
        pytest.raises(UserError, match=r"Out of memory.*shape\[35184372088832\][^\n]*$"),
        input_pipeline.explained(),
    ):
        tf.zeros([2**45])
