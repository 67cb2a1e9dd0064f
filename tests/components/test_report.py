import re

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import report


@pytest.fixture
def draw(monkeypatch):
    """Renders a piece of a template that may use the macros."""

    def render(source: str, **context) -> str:
        source = '{% import "macros.html" as draw %}' + source
        piece = jinja2.DictLoader({"piece.html": source})
        files = jinja2.FileSystemLoader
        monkeypatch.setattr(
            jinja2, "FileSystemLoader", lambda folders: jinja2.ChoiceLoader([piece, files(folders)])
        )
        html = report.render("piece.html", **context)
        monkeypatch.undo()
        return html

    return render


def test_numbers_are_written_for_readers():
    assert report.count(28792) == "28,792"
    assert report.score(0.55034) == "0.5503"
    assert report.signed(0.012) == "+0.0120"
    assert report.signed(-0.00341) == "\N{MINUS SIGN}0.0034"
    assert report.count(None) == report.score(None) == report.signed(None) == "\N{EN DASH}"


@pytest.mark.parametrize(
    "values, ticks",
    [
        ([0.1, 0.93], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([30, 7], [0, 10, 20, 30]),
        ([-2, 2], [-2, -1, 0, 1, 2]),
        ([], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([0, 0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ([float("nan"), 3], [0, 1, 2, 3]),
    ],
)
def test_linear_axis(values, ticks):
    assert report.axis(values, 0, 100).ticks == ticks


def test_axis_of_counts_has_whole_ticks():
    assert report.axis([1, 2], 0, 100, whole=True).ticks == [0, 1, 2]
    assert report.axis([], 0, 100, whole=True).ticks == [0, 1]


@pytest.mark.parametrize(
    "values, ticks",
    [
        ([3, 250], [1, 10, 100, 1000]),
        ([0.02, 0.5], [0.01, 0.1, 1]),
        ([0, 5], [1, 10]),
        ([7], [1, 10]),
        ([], [1, 10]),
        ([1], [1, 10]),
    ],
)
def test_logarithmic_axis(values, ticks):
    assert report.axis(values, 0, 100, log=True).ticks == pytest.approx(ticks)


def test_positions():
    up = report.axis([0, 30], 250, 10)
    assert [up.position(v) for v in (0, 15, 30)] == [250, 130, 10]
    log = report.axis([1, 1000], 0, 300, log=True)
    assert [log.position(v) for v in (1, 10, 1000)] == [0, 100, 300]
    assert not log.shows(0) and up.shows(0) and not up.shows(float("nan"))


def lies_on(axis: report.Axis, values: list[float]) -> bool:
    return len(axis.ticks) >= 2 and all(
        -0.1 <= axis.position(v) <= 100.1 for v in values if axis.shows(v)
    )


@given(st.lists(st.floats(-1e9, 1e9, allow_subnormal=False)), st.booleans())
def test_every_value_lies_on_the_axis(values, log):
    assert lies_on(report.axis(values, 0, 100, log), values)


@given(st.lists(st.integers(0, 10**9)))
def test_every_count_lies_on_the_axis(values):
    axis = report.axis(values, 0, 100, whole=True)
    assert lies_on(axis, values)
    assert all(tick == int(tick) for tick in axis.ticks)


def test_what_users_wrote_is_escaped(draw):
    html = draw('{{ draw.banner("a", text) }}', text="<script>")
    assert "&lt;script&gt;" in html and "<script>" not in html
    assert "&lt;b&gt;" in draw("{{ draw.scatter([(1, 1, '<b>')], 'x', 'y') }}")


def test_a_missing_name_is_an_error(draw):
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        draw("{{ nothing }}")


def test_pages_need_no_network(draw):
    html = draw('{% extends "base.html" %}', kind="Test")
    assert html.startswith("<!doctype html>")
    assert not re.search(r"https?:|src=|<link|<script|@import|url\(", html)


def test_table_sets_numbers_to_the_right(draw):
    html = draw('{{ draw.table(["Class", "Videos"], [["Game", "12"]]) }}')
    assert "<td>Game</td>" in html and "<td class=number>12</td>" in html


def test_lines_leave_out_what_a_logarithm_has_not(draw):
    html = draw('{{ draw.lines([("train", [(1, 1), (10, 0), (100, 10)])], "x", "y", true, true) }}')
    assert re.search(r'points="([^"]*)"', html)[1].split() == ["76.0,252.0", "772.0,12.0"]
    assert "legend" not in html


def test_lines_of_several_have_a_legend(draw):
    html = draw('{{ draw.lines([("train", [(1, 2)]), ("eval", [])], "step", "loss") }}')
    assert "train" in html and "eval" in html and ">step</text>" in html and ">loss</text>" in html


def test_histogram_has_a_bar_for_each_count(draw):
    html = draw('{{ draw.histogram([0, 0.5, 1], [10, 5], "x", "y") }}')
    assert re.findall(r'class="bar" .* height="([\d.]+)"', html) == ["240.0", "120.0"]
    assert "0.5 to 1: 5" in html
