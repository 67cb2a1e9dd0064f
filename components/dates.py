"""Date templates in file patterns, with which scheduled runs find new data."""

import re
from datetime import UTC, datetime, timedelta

from trainer.common.errors import UserError

EXAMPLES = "{date}, {date:%Y/%m/%d} or {date-1d:%Y%m%d} (the day before)"
_DATE = re.compile(r"\{date(?:-(?P<days>\d{1,4})d)?(?::(?P<form>[^{}]*))?\}")


def run_time(scheduled_at: str) -> datetime:
    """Return the scheduled time of a run, or now (UTC) if the backend does not provide it.

    Args:
        scheduled_at: An RFC 3339 time, or the name of kfp's placeholder where the backend does not
            fill it in, such as kfp's local runner and Kubeflow Pipelines before 2.17.
    """
    return (
        datetime.now(UTC) if scheduled_at.startswith("{{") else datetime.fromisoformat(scheduled_at)
    )


def fill_in(pattern: str, moment: datetime) -> str:
    """Replace the date templates of a file pattern.

    Args:
        pattern: For example "gs://bucket/{date:%Y/%m/%d}/train*.tfrecord". The part after the colon
            is a strftime format, by default %Y%m%d; {date-3d} is three days earlier.
        moment: The time of the run, in UTC.

    Raises:
        UserError: A template is malformed.

    Example:
        >>> fill_in("{date-1d}/train*,{date:%Y-%m-%d}/train*", datetime(2026, 3, 1))
        '20260228/train*,2026-03-01/train*'
    """

    def date(match: re.Match) -> str:
        day = moment - timedelta(days=int(match["days"] or 0))
        return day.strftime(match["form"] or "%Y%m%d")

    filled = _DATE.sub(date, pattern)
    if left := re.search(r"\{[^{}]*date[^{}]*\}", filled, re.IGNORECASE):
        raise UserError(f"A date template must be like {EXAMPLES}; got {left[0]!r} in {pattern!r}.")
    return filled
