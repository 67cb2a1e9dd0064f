import pytest

from components import charts


def rows(chart) -> list[dict]:
    return chart.to_dict()["data"]["values"]


def test_line_chart_has_the_points_of_each_series():
    chart = charts.line_chart([("train", [(1, 2), (2, 0)]), ("eval", [])], "step", "loss")
    assert rows(chart) == [
        {"x": 1, "y": 2, "series": "train"},
        {"x": 2, "y": 0, "series": "train"},
    ]
    encoding = chart.to_dict()["encoding"]
    assert (encoding["x"]["title"], encoding["y"]["title"]) == ("step", "loss")
    assert encoding["color"]["scale"]["domain"] == ["train", "eval"]
    assert [tooltip["title"] for tooltip in encoding["tooltip"]] == ["Series", "step", "loss"]


def test_one_line_has_no_legend():
    encoding = charts.line_chart([("train", [(1, 2)])], "x", "y").to_dict()["encoding"]
    assert encoding["color"]["legend"] is None
    assert [tooltip["title"] for tooltip in encoding["tooltip"]] == ["x", "y"]


def test_logarithmic_axes_leave_out_values_that_are_not_positive():
    points = [(1, 1), (10, 0), (0, 3), (100, 10)]
    chart = charts.line_chart([("train", points)], "x", "y", log_x=True, log_y=True)
    assert [(row["x"], row["y"]) for row in rows(chart)] == [(1, 1), (100, 10)]
    assert chart.to_dict()["encoding"]["x"]["scale"]["type"] == "log"


def test_values_that_are_not_finite_are_left_out():
    chart = charts.scatter_chart([(1, float("nan"), "a"), (float("inf"), 1, "b")], "x", "y")
    assert rows(chart) == []


def test_scatter_chart_names_its_dots():
    chart = charts.scatter_chart([(1, 0.123456789, "Game")], "Videos", "AP", log_x=True)
    assert rows(chart) == [{"x": 1, "y": 0.123457, "name": "Game"}]
    assert chart.to_dict()["encoding"]["tooltip"][0]["field"] == "name"


def test_histogram_has_a_bar_per_count():
    assert rows(charts.histogram([0, 0.5, 1], [10, 5], "x", "y")) == [
        {"x": 0, "end": 0.5, "y": 10, "range": "0 to 0.5"},
        {"x": 0.5, "end": 1, "y": 5, "range": "0.5 to 1"},
    ]


def test_band_chart_has_a_row_per_position():
    curves = [(name, [(0, i), (100, i + 1)]) for i, name in enumerate("abcde")]
    chart = charts.band_chart(curves, "Dimension", "Value")
    assert rows(chart) == [
        {"x": 0, "min": 0, "low": 1, "y": 2, "high": 3, "max": 4},
        {"x": 100, "min": 1, "low": 2, "y": 3, "high": 4, "max": 5},
    ]
    *_, line = chart.to_dict()["layer"]
    assert [tip["title"] for tip in line["encoding"]["tooltip"]] == ["Dimension", *"abcde"]


@pytest.mark.parametrize(
    "chart, encodings",
    [
        (charts.line_chart([("a", [(1, 2)])], "x", "y"), ["x", "y"]),
        (charts.scatter_chart([(1, 2, "a")], "x", "y"), ["x", "y"]),
        (charts.histogram([0, 1], [1], "x", "y"), ["x"]),
        (charts.band_chart([(name, [(0, 1)]) for name in "abcde"], "x", "y"), ["x", "y"]),
    ],
)
def test_charts_zoom_and_pan(chart, encodings):
    (zoom,) = chart.to_dict()["params"]
    assert zoom["bind"] == "scales"
    assert zoom["select"]["encodings"] == encodings


def test_the_scripts_can_be_inlined():
    scripts = charts.javascript()
    assert "vegaEmbed" in scripts and len(scripts) < 1_500_000
    assert "</script" not in scripts and "<!--" not in scripts
