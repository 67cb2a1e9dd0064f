"""Predictions: the YouTube-8M challenge's CSV file, to the letter."""

from glob import glob
from pathlib import Path

import numpy as np
import pytest

from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.data.tfrecord import read_records, write_records
from trainer.serving import loading, saved_model
from trainer.serving.submission import predict


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "predictions.csv"


@pytest.fixture
def two_videos(write_videos, tmp_path) -> str:
    features = {"rgb": np.ones(3), "audio": np.ones(2)}
    return write_videos(tmp_path / "two.tfrecord", [("b2", [0], features), ("a1", [], features)])


def test_the_file_to_the_letter(save_logistic_model, two_videos, output):
    train_dir = save_logistic_model([0.125, 0.999999999, 1e-7, 0.75, 1 / 3])
    assert predict(train_dir, two_videos, str(output)) == 2
    classes = "1 1 3 0.75 4 0.333333 0 0.125 2 1e-07"
    assert output.read_text() == f"VideoId,LabelConfidencePairs\nb2,{classes}\na1,{classes}\n"


@pytest.mark.parametrize("top_k", [1, 3, 5, 6])
def test_top_k_classes_are_written_or_all(save_logistic_model, two_videos, output, top_k):
    train_dir = save_logistic_model([0.5, 0.25, 0.625, 0.125, 0.0625])
    predict(train_dir, two_videos, str(output), top_k=top_k)
    pairs = ["2 0.625", "0 0.5", "1 0.25", "3 0.125", "4 0.0625"][:top_k]
    assert output.read_text().splitlines()[1] == f"b2,{' '.join(pairs)}"


def test_of_equal_scores_the_lower_class_comes_first(save_logistic_model, two_videos, output):
    predict(save_logistic_model([0.5, 0.75, 0.5, 0.75]), two_videos, str(output))
    assert output.read_text().splitlines()[1] == "b2,1 0.75 3 0.75 0 0.5 2 0.5"


@pytest.mark.parametrize("batch_size", [1, 10, 512])
def test_every_video_has_a_line_in_input_order(trained, video_shards, output, batch_size):
    model, files = loading.load(trained), sorted(glob(video_shards))
    (batch,) = input_pipeline.batches(files, model.record_format, 100)
    assert predict(trained, video_shards, str(output), batch_size, top_k=2) == 37
    lines = [line.split(",") for line in output.read_text().splitlines()[1:]]
    assert [video_id for video_id, _ in lines] == [i.decode() for i in batch["id"].numpy()]
    for (_, line), scores in zip(lines, model.predict(batch).numpy(), strict=True):
        first, p_first, second, p_second = line.split()
        assert [int(first), int(second)] == np.argsort(-scores)[:2].tolist()
        expected = scores[[int(first), int(second)]]
        assert [float(p_first), float(p_second)] == pytest.approx(expected, rel=1e-5)


def test_an_exported_model_predicts_the_same(trained, video_shards, output, tmp_path):
    predict(trained, video_shards, str(output))
    expected = output.read_text()
    saved_model.export(trained, f"{tmp_path}/exported")
    predict(f"{tmp_path}/exported", video_shards, str(output))
    got = output.read_text()
    for line, expected_line in zip(got.splitlines(), expected.splitlines(), strict=True):
        words, expected_words = line.split(), expected_line.split()
        assert words[0] == expected_words[0]
        assert [float(w) for w in words[1:]] == pytest.approx(
            [float(w) for w in expected_words[1:]], rel=1e-4
        )


def test_ids_are_written_as_they_are(save_logistic_model, tmp_path, output, write_videos):
    features = {"rgb": np.ones(3), "audio": np.ones(2)}
    path = write_videos(tmp_path / "ids.tfrecord", [("zürich-日本", [], features)])
    predict(save_logistic_model([0.5]), path, str(output))
    assert output.read_text(encoding="utf-8").splitlines()[1] == "zürich-日本,0 0.5"


def test_no_videos_give_a_header(save_logistic_model, tmp_path, output):
    write_records(f"{tmp_path}/empty.tfrecord", [])
    assert predict(save_logistic_model([0.5]), f"{tmp_path}/empty.tfrecord", str(output)) == 0
    assert output.read_text() == "VideoId,LabelConfidencePairs\n"


@pytest.mark.parametrize("before", [None, "what was there\n"])
def test_a_failure_leaves_no_half_written_file(trained, video_shards, tmp_path, output, before):
    if before:
        output.write_text(before)
    bad = tmp_path / "zz.tfrecord"
    write_records(str(bad), read_records(sorted(glob(video_shards))[0]))
    bad.write_bytes(bad.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"zz\.tfrecord, record 9: truncated"):
        predict(trained, f"{video_shards},{bad}", str(output), batch_size=4)
    assert (output.read_text() if output.exists() else None) == before
    assert not list(tmp_path.glob("*predictions.csv?*"))


def test_a_file_that_cannot_be_written_is_named(trained, video_shards, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="file"):
        predict(trained, video_shards, f"{tmp_path}/file/predictions.csv")


def test_a_folder_without_a_model(tmp_path, video_shards, output):
    with pytest.raises(UserError, match="No model in"):
        predict(str(tmp_path), video_shards, str(output))
    assert not output.exists()
