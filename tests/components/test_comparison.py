import pytest

from components.comparison import compare


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
def test_more_is_better(new, old, difference, tone):
    new_scores = {} if new is None else {"gap": new}
    row = compare(new_scores, {} if old is None else {"gap": old})[0]
    assert (row["label"], row["new"], row["old"], row["tone"]) == ("GAP", new, old, tone)
    assert row["difference"] == pytest.approx(difference)


def test_of_the_loss_less_is_better():
    assert [row["label"] for row in compare({}, {})][-1] == "Loss"
    assert compare({"loss": 2.0}, {"loss": 3.0})[-1]["tone"] == "good"
    assert compare({"loss": 3.0}, {"loss": 2.0})[-1]["tone"] == "bad"
