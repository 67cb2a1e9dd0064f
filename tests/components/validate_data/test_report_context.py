import pytest

from components.report import render
from components.validate_data import report_context
from components.validate_data.references import References

NO_REFERENCES = References([f"class {i}" for i in range(4)], {}, {}, "")


def split(**changes) -> dict:
    feature = {
        "count": 4,
        "mean": [0.0, 2.0],
        "std": [1.0, 1.0],
        "min": [-1.0, 2.0],
        "max": [1.0, 2.0],
        "zeros": [2, 0],
        "quantiles": {"0.01": [-1.0, 2.0], "0.5": [0.0, 2.0], "0.99": [1.0, 2.0]},
        "histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [1.0, 3.0]},
    }
    return {
        "pattern": "files*",
        "files": [
            {"path": "f1", "records": 3, "bytes": 9},
            {"path": "f2", "records": 1, "bytes": 1},
        ],
        "bytes": 2_500_000,
        "records": 4,
        "videos": 4,
        "labels": [5, 0, 9, 1],
        "labels_per_video": [1, 2, 1],
        "frames_per_video": [],
        "features": {"rgb": feature},
    } | changes


def context(*severities, passed=True, references=NO_REFERENCES, comparisons=(), **changes) -> dict:
    statistics = {
        "fingerprint": "abc",
        "splits": {"train": split(**changes)},
        "comparisons": list(comparisons),
    }
    rows = [{"severity": severity} for severity in severities]
    return report_context.context(statistics, {"passed": passed, "anomalies": rows}, references)


@pytest.mark.parametrize(
    "severities, passed, title, tone, text",
    [
        (["info"], True, "Passed", "good", "No problems in 4 records."),
        (["warning"], True, "Passed with warnings", "good", "1 kind of warning in 4 records."),
        (["error", "error"], False, "Failed", "bad", "2 kinds of errors in 4 records."),
        (["warning"], False, "Failed", "bad", "1 kind of warning in 4 records."),
        (
            ["error", "warning"],
            True,
            "Passed with errors",
            "doubtful",
            "1 kind of error, 1 kind of",
        ),
    ],
)
def test_the_verdict(severities, passed, title, tone, text):
    verdict = context(*severities, passed=passed)["verdict"]
    assert (verdict["title"], verdict["tone"]) == (title, tone)
    assert text in verdict["text"]


def test_the_overview_by_hand():
    rows = dict(context()["overview"])
    assert rows["Files"] == "2"
    assert rows["Records per file"] == "1 to 3"
    assert rows["Total size"] == "2.5 MB"
    assert rows["Labels per video"] == "1.00 (max 2)"
    assert rows["Classes with videos"] == "3 of 4"
    assert "Frames per video" not in rows
    frames = context(frames_per_video=[0, 0, 3, 1])
    assert dict(frames["overview"])["Frames per video"] == "2.25 (max 3)"


def test_classes_by_rank():
    assert context()["label_frequency"] == [("train", [(1, 9), (2, 5), (3, 1)])]
    assert context(labels=[0, 0, 0, 0])["label_frequency"] == [("train", [])]


def test_shares_of_videos():
    assert context()["labels_per_video"] == [("train", [(0, 25), (1, 50), (2, 25)])]


def test_frames_are_counted_in_steps():
    assert context()["frames_per_video"] == []
    frames = context(frames_per_video=[0, 0, 1, 0, 2, 0, 1])  # 3 of 4 videos have 0 to 4 frames
    assert frames["frames_per_video"] == [("train", [(0, 75), (5, 25)])]


def test_published_counts_are_joined_by_class():
    references = References(["Game", "Car", "Food", "Dance"], {2: 700, 0: 900, 1: 5}, {}, "")
    assert context(references=references)["published"] == [
        (900, 5, "Game: 5 of 900"),
        (700, 9, "Food: 9 of 700"),
    ]


def test_a_feature_by_hand():
    (feature,) = context()["features"]
    (row,) = feature["rows"]
    # Over both dimensions: mean 1, variance 1 + 1; 2 of 8 values are 0; one never changes.
    assert row == ("train", "4", "1.000", "1.414", "-1.000", "2.000", "25%", "1")
    assert feature["curves"] == [("train", [(-0.5, 25), (0.5, 75)])]
    bands = dict(feature["bands"])
    assert bands["Min"] == [(0, -1), (100, 2)]
    assert bands["Median"] == [(0, 0), (100, 2)]


def test_a_comparison_by_hand():
    comparison = {
        "split": "eval",
        "against": "train",
        "labels": {
            "linf": 0.25,
            "linf_drift": 0.125,
            "js": 0.5,
            "js_drift": 0.0,
            "worst": [{"class": 3, "share": 0.5, "other_share": 0.25}],
        },
        "features": {
            "rgb": {"shift": 2.0, "shift_drift": 1.0, "worst": [{"dimension": 7, "shift": 2.0}]}
        },
    }
    (got,) = context(comparisons=[comparison])["comparisons"]
    assert got["title"] == "eval compared with train"
    assert [row[1:3] for row in got["rows"]] == [
        ("0.2500", "0.1250"),
        ("0.5000", "0.0000"),
        ("2.0000", "1.0000"),
    ]
    assert got["rows"][2][3] == "dimensions 7"
    assert got["worst"] == [("class 3", "50.000%", "25.000%")]


def test_the_report_is_rendered():
    references = References(["Game", "Car", "Food", "Dance"], {2: 788_288, 0: 900}, {}, "")
    html = render("validate_data/report.html", **context(references=references))
    assert html.count('<figure class="chart">') == 5
    assert "Food: 9 of 788,288" in html
