import pytest

from components.metric_table import metric_rows
from trainer.evaluation.metrics import METRICS, HitAt1, Metric


@pytest.mark.parametrize(
    "new, old, difference, tone",
    [
        (0.6, 0.5, 0.1, "good"),
        (0.5, 0.6, -0.1, "bad"),
        (0.5, 0.5, 0.0, ""),
        (0.5, None, None, ""),
        (None, 0.5, None, ""),
    ],
)
def test_higher_metrics_are_better(new, old, difference, tone):
    row = metric_rows({} if new is None else {"gap": new}, {} if old is None else {"gap": old})[0]
    assert (row["label"], row["new"], row["old"], row["tone"]) == ("GAP", new, old, tone)
    assert row["difference"] == pytest.approx(difference)


def test_every_metric_has_a_row_and_the_loss_is_last():
    titles = [metric.title for metric in METRICS.values()]
    assert [row["label"] for row in metric_rows({}, {})] == [*titles, "Loss"]


def test_lower_loss_is_better():
    assert metric_rows({"loss": 2.0}, {"loss": 3.0})[-1]["tone"] == "good"
    assert metric_rows({"loss": 3.0}, {"loss": 2.0})[-1]["tone"] == "bad"


def test_metric_that_is_added_to_the_registry_has_a_row(monkeypatch):
    monkeypatch.setitem(METRICS, "added", Metric("Added", "An added metric.", HitAt1))
    row = metric_rows({"added": 0.5}, {"added": 0.25})[-2]
    assert (row["label"], row["meaning"], row["difference"]) == ("Added", "An added metric.", 0.25)
