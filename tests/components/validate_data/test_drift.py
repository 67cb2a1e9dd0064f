import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.validate_data.drift import Thresholds, compare, find, jensen_shannon
from trainer.common.errors import UserError

NAMES = ["Game", "Car", "Food", "Dance"]


def split(labels, mean=(0.0, 0.0), std=(1.0, 1.0), videos=10_000) -> dict:
    features = {"rgb": {"mean": list(mean), "std": list(std)}}
    return {"videos": videos, "labels": labels, "features": features}


def found(one, other, **thresholds) -> list[tuple]:
    return list(find(compare(one, other), Thresholds(**thresholds), NAMES))


def test_distances_by_hand():
    got = compare(split([75, 25], mean=[0, 3]), split([25, 75], mean=[1, 3], std=[3, 3]))
    assert got["labels"]["linf"] == 0.5
    # KL of (3/4, 1/4) from (1/2, 1/2) is 1 - H(1/4) = 1 - 0.811278 bits.
    assert got["labels"]["js"] == pytest.approx((1 - 0.811278) ** 0.5, abs=1e-6)
    assert got["labels"]["worst"][0] == {"class": 0, "share": 0.75, "other_share": 0.25}
    assert got["features"]["rgb"]["shift"] == pytest.approx(1 / 5**0.5)  # variances 1 and 9
    assert got["features"]["rgb"]["worst"][0]["dimension"] == 0


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5).filter(any), st.randoms())
def test_jensen_shannon_is_a_distance(counts, random):
    p = np.array(counts) / sum(counts)
    q = np.array(random.sample(counts, len(counts))) / sum(counts)
    assert 0 <= jensen_shannon(p, q) <= 1 + 1e-12
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert jensen_shannon(p, p) == 0


def test_nothing_in_common_is_a_distance_of_one():
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == 1


def test_the_same_data_has_not_drifted():
    assert found(split([5, 7, 1]), split([50, 70, 10])) == []


def test_label_drift_is_named():
    reasons = found(split([900, 100]), split([100, 900]))
    assert [kind for kind, _ in reasons] == ["label_drift", "label_drift"]
    assert reasons[0][1] == "the relative frequency of 'Game' is 90.00%, compared with 10.00%"
    assert "most different: 'Game', 'Car'" in reasons[1][1]


def test_feature_drift_is_named():
    ((kind, reason),) = found(split([1, 1], mean=[0, 0.5]), split([1, 1]))
    assert kind == "feature_drift"
    assert reason == (
        "the mean of 'rgb' has shifted by 0.5 (dimension 1), 0 (dimension 0) standard deviations"
    )


def test_few_videos_differ_by_chance():
    assert found(split([3, 1], mean=[1, 0], videos=4), split([1, 3], videos=4)) == []
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 1001)
    for videos in (100, 1000, 10_000):
        one, other = rng.multinomial(videos, share / share.sum(), 2).tolist()
        means = rng.normal(0, videos**-0.5, (2, 1024))
        std = np.ones(1024)
        names = [str(i) for i in range(1000)]
        comparison = compare(split(one, means[0], std, videos), split(other, means[1], std, videos))
        assert list(find(comparison, Thresholds(), names)) == []


def test_two_constants_are_apart():
    got = compare(split([1], mean=[1, 2], std=[0, 0]), split([1], mean=[1, 3], std=[0, 0]))
    assert got["features"]["rgb"]["worst"][0] == {"dimension": 1, "shift": 1e9}
    assert got["features"]["rgb"]["worst"][1] == {"dimension": 0, "shift": 0}


def test_what_cannot_be_compared_is_left_out():
    assert compare(split([0, 0]), split([1, 1]))["labels"] is None
    assert compare(split([1], videos=0), split([1])) == {"labels": None, "features": {}}
    assert compare(split([1], mean=[0]), split([1]))["features"] == {}  # another size


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_a_threshold_is_a_distance(value):
    with pytest.raises(UserError, match="max_label_js must be 0 or more; got"):
        Thresholds(label_js=value)
