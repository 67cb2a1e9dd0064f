"""HTML reports: one file each, readable with no network, script or style sheet beside it.

A report is a Jinja template that extends base.html and draws with the macros of macros.html; the
geometry of its charts is computed here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2

_FOLDER = Path(__file__).parent
_DASH = "\N{EN DASH}"


def render(template: str, **context) -> str:
    """The HTML of a template in components/templates, or named from components/, with `context`.

    Everything that the context holds is escaped. A name the template uses and the context lacks
    is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_FOLDER / "templates", _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(axis=axis)
    environment.filters.update(count=count, score=score, signed=signed)
    return environment.get_template(template).render(**context)


def count(value: float | None) -> str:
    """A number of things: 28,792; of None a dash."""
    return _DASH if value is None else f"{value:,.0f}"


def score(value: float | None) -> str:
    """A metric: 0.5503; of None a dash."""
    return _DASH if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A difference of metrics: +0.0120; of None a dash."""
    return _DASH if value is None else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Axis:
    """One axis of a chart: which values it spans, and where along its length each one lies."""

    low: float
    high: float
    start: float  # position of `low`, in pixels
    end: float  # position of `high`; less than `start` on an axis that grows upwards
    log: bool
    ticks: list[float]

    def shows(self, value: float) -> bool:
        """Whether a value can be drawn: finite, and positive on a logarithmic axis."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def position(self, value: float) -> float:
        """Where a value lies, in pixels to a tenth."""
        scale = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        share = (scale(value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def axis(
    values: Iterable[float], start: float, end: float, log: bool = False, whole: bool = False
) -> Axis:
    """An axis from pixel `start` to pixel `end`, which spans `values` and ends on round numbers.

    A linear axis includes 0, and a logarithmic one leaves out what is not positive. `whole`: the
    values are whole numbers, and so are the ticks.
    """
    shown = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if log:
        low, high = (min(shown), max(shown)) if shown else (1, 10)
        first = math.floor(math.log10(low))
        last = max(math.ceil(math.log10(high)), first + 1)
        ticks = [10.0**power for power in range(first, last + 1)]
    else:
        ticks = _linear_ticks(min([0, *shown]), max([0, *shown]), 1 if whole else 0)
    return Axis(ticks[0], ticks[-1], start, end, log, ticks)


def _linear_ticks(low: float, high: float, smallest_step: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`."""
    if low == high:
        high = low + 1
    rough = (high - low) / 5
    exponent = math.floor(math.log10(rough))
    step = next(m * 10.0**exponent for m in (1, 2, 5, 10) if m * 10.0**exponent >= 0.99 * rough)
    step = max(step, smallest_step)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 1 - exponent) for i in range(first, last + 1)]
