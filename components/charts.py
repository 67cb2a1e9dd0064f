"""Charts of the HTML reports, as Altair specifications with tooltips, zoom and pan.

A report draws them in the browser with the scripts of `javascript`, without network access.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import altair as alt
import vl_convert

COLORS = ("#2563c4", "#d9730d", "#18794e", "#7c4dbd", "#0e8a9b", "#b0437c")
HEIGHT = 250

# The mouse wheel alone scrolls the page.
ZOOM_EVENT = "wheel![event.shiftKey]"

alt.data_transformers.disable_max_rows()


def line_chart(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
) -> alt.Chart:
    """Return a chart with one line per series.

    Args:
        series: (name, [(x, y), ...]) of each line. Values that are not finite, or not positive on
            a logarithmic axis, are left out.
        x_title: Title of the x-axis.
        y_title: Title of the y-axis.
        log_x: Use a logarithmic x-axis.
        log_y: Use a logarithmic y-axis.
    """
    rows = [
        {"x": _rounded(x), "y": _rounded(y), "series": name}
        for name, points in series
        for x, y in points
        if _is_visible(x, log_x) and _is_visible(y, log_y)
    ]
    names = [name for name, _ in series]
    legend = alt.Legend(title=None, orient="top", labelLimit=0) if len(names) > 1 else None
    scale = alt.Scale(domain=names, range=list(COLORS))
    # Invisible points give the lines tooltips.
    mark = {"strokeWidth": 2, "point": {"opacity": 0, "size": 90}}
    return (
        _base(rows, x_title, y_title, log_x, log_y, ("x", "y"))
        .mark_line(**mark)
        .encode(
            color=alt.Color("series:N", scale=scale, legend=legend),
            tooltip=[
                *([alt.Tooltip("series:N", title="Series")] if len(names) > 1 else []),
                *_tooltips(x_title, y_title),
            ],
        )
    )


def scatter_chart(
    points: Iterable[tuple[float, float, str]],
    x_title: str,
    y_title: str,
    log_x: bool = False,
    log_y: bool = False,
) -> alt.Chart:
    """Return a chart with one dot per (x, y, name); arguments as `line_chart`."""
    rows = [
        {"x": _rounded(x), "y": _rounded(y), "name": name}
        for x, y, name in points
        if _is_visible(x, log_x) and _is_visible(y, log_y)
    ]
    return (
        _base(rows, x_title, y_title, log_x, log_y, ("x", "y"))
        .mark_circle(size=30, opacity=0.45, color=COLORS[0])
        .encode(tooltip=[alt.Tooltip("name:N", title="Name"), *_tooltips(x_title, y_title)])
    )


def histogram(
    edges: Sequence[float], counts: Sequence[float], x_title: str, y_title: str
) -> alt.Chart:
    """Return a bar chart of `counts[i]` values between `edges[i]` and `edges[i + 1]`."""
    rows = [
        {"x": low, "end": high, "y": count, "range": f"{low:.4g} to {high:.4g}"}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return (
        _base(rows, x_title, y_title, False, False, ("x",))
        .mark_bar(color=COLORS[0])
        .encode(
            x=alt.X("x:Q", title=x_title, bin="binned", axis=_axis(False, grid=False)),
            x2="end",
            tooltip=[
                alt.Tooltip("range:N", title=x_title),
                alt.Tooltip("y:Q", title=y_title, format=",.6~g"),
            ],
        )
    )


def band_chart(
    bands: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_title: str, y_title: str
) -> alt.LayerChart:
    """Return a chart of five quantiles over x: two nested bands and a line.

    Args:
        bands: (name, [(x, y), ...]) of the min, low, middle, high and max curves, with equal x.
        x_title: Title of the x-axis.
        y_title: Title of the y-axis.
    """
    names = [name for name, _ in bands]
    keys = ["min", "low", "y", "high", "max"]
    rows = [
        {
            "x": _rounded(points[0][0]),
            **{key: _rounded(y) for key, (_, y) in zip(keys, points, strict=True)},
        }
        for points in zip(*(points for _, points in bands), strict=True)
    ]
    base = _base(rows, x_title, y_title, False, False, ())
    tooltip = [
        alt.Tooltip("x:Q", title=x_title, format=",.6~g"),
        *(
            alt.Tooltip(f"{key}:Q", title=name, format=",.6~g")
            for key, name in zip(keys, names, strict=True)
        ),
    ]
    # The first layer has the zoom, and the last one the tooltips.
    return alt.layer(
        base.mark_area(opacity=0.15, color=COLORS[0])
        .encode(y="min:Q", y2="max")
        .add_params(_zoom(("x", "y"))),
        base.mark_area(opacity=0.3, color=COLORS[0]).encode(y="low:Q", y2="high"),
        base.mark_line(color=COLORS[0], strokeWidth=2, point={"opacity": 0, "size": 90}).encode(
            tooltip=tooltip
        ),
    )


def _base(
    rows: list[dict], x_title: str, y_title: str, log_x: bool, log_y: bool, zoom: tuple[str, ...]
) -> alt.Chart:
    chart = alt.Chart(alt.Data(values=rows), width="container", height=HEIGHT).encode(
        x=alt.X("x:Q", title=x_title, scale=_scale(log_x), axis=_axis(log_x, grid=False)),
        y=alt.Y("y:Q", title=y_title, scale=_scale(log_y), axis=_axis(log_y, grid=True)),
    )
    return chart.add_params(_zoom(zoom)) if zoom else chart


def _zoom(encodings: tuple[str, ...]) -> alt.Parameter:
    return alt.selection_interval(bind="scales", encodings=list(encodings), zoom=ZOOM_EVENT)


def _scale(log: bool) -> alt.Scale:
    return alt.Scale(type="log") if log else alt.Scale(nice=True)


def _axis(log: bool, grid: bool) -> alt.Axis:
    return alt.Axis(grid=grid, gridOpacity=0.5 if log else 1, labelOverlap=True)


def _tooltips(x_title: str, y_title: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip(f"{axis}:Q", title=title, format=",.6~g")
        for axis, title in (("x", x_title), ("y", y_title))
    ]


def _is_visible(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


@functools.cache
def javascript() -> str:
    """Return the scripts that draw charts: Vega, Vega-Lite and Vega-Embed, about 0.9 MB."""
    return vl_convert.javascript_bundle(vl_version=alt.SCHEMA_VERSION[1:].rsplit(".", 1)[0])
