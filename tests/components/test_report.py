import re

import jinja2
import pytest

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


def test_what_users_wrote_is_escaped(draw):
    html = draw('{{ draw.banner("a", text) }}', text="<script>")
    assert "&lt;script&gt;" in html and "<script>" not in html
    html = draw("{{ scatter_chart([(1, 1, '</script><b>')], 'x', 'y') }}")
    assert html.count("</script>") == 1 and "<b>" not in html


def test_a_missing_name_is_an_error(draw):
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        draw("{{ nothing }}")


PAGE = (
    '{% extends "base.html" %}{% block content %}{{ line_chart([("a", [(1, 2)])], "x", "y") }}'
    "{% endblock %}"
)


def test_pages_need_no_network(draw):
    html = draw(PAGE, kind="Test")
    assert html.startswith("<!doctype html>")
    assert html.count('<figure class="chart">') == 1
    assert "vegaEmbed(figure" in html and len(html) < 3_000_000
    scripts = re.compile(r"(<script[^>]*>).*?</script>", re.DOTALL)
    assert set(scripts.findall(html)) == {"<script>", '<script type="application/json">'}
    assert not re.search(r"https?:|src=|<link|@import|url\(", scripts.sub("", html))


def test_pages_without_charts_are_small(draw):
    html = draw('{% extends "base.html" %}', kind="Test")
    assert "vegaEmbed" not in html and len(html) < 20_000


def test_table_sets_numbers_to_the_right(draw):
    html = draw('{{ draw.table(["Class", "Videos"], [["Game", "12"]]) }}')
    assert "<td>Game</td>" in html and "<td class=number>12</td>" in html
