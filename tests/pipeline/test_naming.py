from datetime import UTC, datetime

import pytest

from pipeline.naming import run_name


@pytest.mark.parametrize(
    "train_data, data",
    [
        ("gs://bucket/yt8m/video/train*.tfrecord", "-video"),
        ("gs://bucket/{date-1d:%Y/%m/%d}/train*", "-bucket"),
        ("/data/frame/*/train0*,/data/more/train*", "-frame"),
        ("train*", ""),
    ],
)
def test_a_run_is_named_after_its_model_data_and_time(train_data, data):
    values = {"model": "MoeModel", "train_data": train_data}
    name = run_name(values, datetime(2026, 3, 1, 2, tzinfo=UTC))
    assert name == f"MoeModel{data}-20260301-020000"


def test_a_batch_prediction_is_named_after_its_data_and_time():
    values = {"data": "gs://bucket/yt8m/test/*.tfrecord", "model_dir": ""}
    name = run_name(values, datetime(2026, 3, 1, 2, tzinfo=UTC))
    assert name == "predict-test-20260301-020000"
