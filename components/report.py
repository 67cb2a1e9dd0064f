"""HTML reports: one self-contained file each, which needs no network.

A report is a Jinja template that extends base.html. It uses the macros of macros.html and the chart
functions of components.charts, e.g. `{{ histogram(edges, counts, "AP", "Number of classes") }}`.
"""

from pathlib import Path

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from components import charts

_FOLDER = Path(__file__).parent
_DASH = "\N{EN DASH}"
_CHARTS = (charts.line_chart, charts.scatter_chart, charts.histogram, charts.band_chart)


def render(template: str, **context) -> str:
    """Render a template of components/templates, or one named relative to components/.

    All values of the context are escaped. A name that the template uses and the context lacks is
    an error.

    Returns:
        The HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_FOLDER / "templates", _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update({chart.__name__: _as_figure(chart) for chart in _CHARTS})
    environment.globals.update(chart_scripts=lambda: Markup(charts.javascript()))
    environment.globals.update(score=score, signed=signed)
    environment.filters.update(
        count=count, score=score, signed=signed, p_value=p_value, duration=duration
    )
    return environment.get_template(template).render(**context)


def _as_figure(chart):
    def figure(*args, **kwargs) -> Markup:
        specification = htmlsafe_json_dumps(chart(*args, **kwargs).to_dict())
        script = Markup('<script type="application/json">{}</script>').format(specification)
        return Markup('<figure class="chart">{}</figure>').format(script)

    return figure


def count(value: float | None) -> str:
    """Format a count, e.g. 28,792; None as a dash."""
    return _DASH if value is None else f"{value:,.0f}"


def score(value: float | None) -> str:
    """Format a metric, e.g. 0.5503; None as a dash."""
    return _DASH if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """Format a difference of metrics, e.g. +0.0120; None as a dash."""
    return _DASH if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def p_value(value: float) -> str:
    """Return a p-value, below 0.001 only as such."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    """Format a duration, e.g. 2 h 5 min; None as a dash."""
    if seconds is None:
        return _DASH
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
