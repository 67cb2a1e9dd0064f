"""Predictions in files: the YouTube-8M challenge's CSV format, JSON Lines and Parquet."""

import csv
import io
import json
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import input_pipeline
from trainer.data.examples import encode_example
from trainer.data.tfrecord import read_records, write_records
from trainer.serving import loading, saved_model
from trainer.serving.options import PredictionOptions
from trainer.serving.prediction import predict_to_file, top_classes


def predict(model_dir, data_pattern, output_file, batch_size=512, **options) -> int:
    """Predict to a file; return the number of videos."""
    model, files = loading.load(model_dir), storage.glob(data_pattern)
    options = PredictionOptions(batch_size=batch_size, **options)
    return predict_to_file(model, files, output_file, options).videos


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


IDS = [b"a,b", b'say "hi"', b"two\nlines", b"\xff\xfe", b"", b"plain"]


@pytest.fixture
def unusual_ids(tmp_path) -> str:
    """A shard of videos with the ids IDS, and labels that are out of range."""
    context = {"labels": np.array([99])}
    features = {"rgb": np.ones(3, np.float32), "audio": np.ones(2, np.float32)}
    ids = [{"id": video_id} if video_id else {} for video_id in IDS]
    write_records(f"{tmp_path}/ids.tfrecord", [encode_example(i | context | features) for i in ids])
    return f"{tmp_path}/ids.tfrecord"


def test_csv_quotes_ids_as_rfc_4180_requires(save_logistic_model, unusual_ids, output):
    predict(save_logistic_model([0.25, 0.75]), unusual_ids, str(output), top_k=1)
    rows = list(csv.reader(io.StringIO(output.read_bytes().decode("latin-1"), newline="")))
    assert [row[0].encode("latin-1") for row in rows[1:]] == IDS
    assert [row[1] for row in rows[1:]] == ["1 0.75"] * len(IDS)
    assert output.read_bytes().splitlines()[1:3] == [b'"a,b",1 0.75', b'"say ""hi""",1 0.75']


TEXT_IDS = ["a,b", 'say "hi"', "two\nlines", "\\xff\\xfe", "", "plain"]


def test_json_lines_name_the_classes(save_logistic_model, unusual_ids, output):
    model = save_logistic_model([0.25, 0.75])
    predict(model, unusual_ids, str(output), output_format="jsonl")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["video_id"] for row in rows] == TEXT_IDS
    assert rows[0]["predictions"] == [
        {"class": 1, "name": "class 1", "probability": 0.75},
        {"class": 0, "name": "class 0", "probability": 0.25},
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_parquet_has_the_columns_of_json_lines(
    save_logistic_model, unusual_ids, output, batch_size
):
    model = save_logistic_model([0.25, 0.75])
    predict(model, unusual_ids, str(output), batch_size, output_format="parquet")
    table = parquet.read_table(output)
    assert table.column("video_id").to_pylist() == TEXT_IDS
    for first, second in table.column("predictions").to_pylist():
        assert first == {"class": 1, "name": "class 1", "probability": pytest.approx(0.75)}
        assert second == {"class": 0, "name": "class 0", "probability": pytest.approx(0.25)}


@pytest.mark.parametrize("output_format", ["csv", "jsonl", "parquet"])
def test_no_videos_give_a_valid_file(save_logistic_model, tmp_path, output, output_format):
    write_records(f"{tmp_path}/empty.tfrecord", [])
    model = save_logistic_model([0.5])
    predict(model, f"{tmp_path}/empty.tfrecord", str(output), output_format=output_format)
    if output_format == "parquet":
        assert parquet.read_table(output).num_rows == 0
    else:
        assert (
            output.read_text()
            == {"csv": "VideoId,LabelConfidencePairs\n", "jsonl": ""}[output_format]
        )


@pytest.mark.parametrize(
    "options, pairs",
    [
        ({"min_probability": 0.5}, "2 0.625 0 0.5"),
        ({"min_probability": 0.7}, ""),
        ({"min_probability": 0.1, "top_k": 2}, "2 0.625 0 0.5"),
        ({"top_k": 9}, "2 0.625 0 0.5 1 0.25 3 0.125"),
    ],
)
def test_classes_below_the_minimum_probability_are_left_out(
    save_logistic_model, two_videos, output, options, pairs
):
    train_dir = save_logistic_model([0.5, 0.25, 0.625, 0.125])
    predict(train_dir, two_videos, str(output), **options)
    assert output.read_text().splitlines()[1] == f"b2,{pairs}"


def test_statistics(save_logistic_model, unusual_ids, output):
    model = loading.load(save_logistic_model([0.25, 0.77]))
    options = PredictionOptions(min_probability=0.8)
    statistics = predict_to_file(model, [unusual_ids], str(output), options)
    assert (statistics.videos, statistics.without_id, statistics.without_classes) == (6, 1, 6)
    assert statistics.top_probabilities.tolist() == [0] * 15 + [6] + [0] * 4  # from 0.75 to 0.8
    assert statistics.top_classes.tolist() == [0, 6]
    assert statistics.expected_labels.tolist() == pytest.approx([1.5, 4.62])


@pytest.mark.parametrize("num_classes, k", [(3862, 20), (500, 3), (100, 20), (5, 5), (1, 1)])
@pytest.mark.parametrize("num_values", [2, 50, 10**9])
def test_top_classes_are_those_of_a_stable_sort(num_classes, k, num_values):
    rng = np.random.default_rng(0)
    probabilities = rng.integers(0, num_values, [64, num_classes]).astype(np.float32)
    expected = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top_classes(probabilities, k), expected)
    assert top_classes(probabilities[:0], k).shape == (0, k)


def test_predictions_that_are_nan_are_an_error(save_logistic_model, tmp_path, output, write_videos):
    features = {"rgb": np.full(3, np.nan), "audio": np.ones(2)}
    path = write_videos(tmp_path / "nan.tfrecord", [("bad", [], features)])
    with pytest.raises(UserError, match="predicts NaN for the video b'bad'"):
        predict(save_logistic_model([0.5]), path, str(output))
    assert not output.exists()


def test_top_classes_with_nan():
    probabilities = np.zeros([2, 1000], np.float32)
    probabilities[0] = np.nan
    probabilities[0, 7] = 0.5
    assert top_classes(probabilities, 2).tolist() == [[7, 0], [0, 1]]


def test_a_link_is_kept_and_a_device_is_not_replaced(save_logistic_model, two_videos, tmp_path):
    model = save_logistic_model([0.5])
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    predict(model, two_videos, f"{tmp_path}/link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert len((tmp_path / "target.csv").read_text().splitlines()) == 3
    predict(model, two_videos, "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_temporary_files_of_killed_runs_are_removed(save_logistic_model, two_videos, output):
    leftover = output.with_name(f".{output.name}.0123.tmp")
    leftover.write_text("half of a file")
    predict(save_logistic_model([0.5]), two_videos, str(output))
    assert not leftover.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 0}, "--top_k must be at least 1; got 0"),
        ({"min_probability": 1.5}, "min_probability must be 0 to 1; got 1.5"),
        ({"output_format": "xml"}, "must be one of csv, jsonl, parquet; got 'xml'"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(UserError, match=message):
        PredictionOptions(**options)
