"""Cron expressions: validation against Kubeflow's dialect, and the times they describe."""

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from trainer.common.errors import UserError

EXAMPLE = "e.g. '0 2 * * *' (each night at 2)"


def read(text: str) -> str:
    """Validate a cron expression; return it with six fields, seconds first.

    Args:
        text: Five fields (minute, hour, day of month, month, day of week), or six with seconds
            first.

    Raises:
        UserError: Kubeflow's scheduler would reject the expression, or it never fires.
    """
    fields = text.split()
    if len(fields) not in (5, 6):
        raise UserError(
            f"A cron expression has 5 or 6 fields, {EXAMPLE}; got {len(fields)}: {text!r}."
        )
    fields = ["0", *fields] if len(fields) == 5 else fields
    names = re.sub(r"[A-Z]{3}", "", " ".join(fields).upper())
    if unknown := sorted(set(re.findall(r"[^0-9*?,/ -]", names))):
        raise UserError(
            "A cron expression consists of digits, names such as MON and JAN, and * ? , - /; "
            f"got {unknown[0]!r} in {text!r}."
        )
    if "7" in re.findall(r"\d+", fields[5].split("/")[0]):
        raise UserError(f"The days of the week are 0 (Sunday) to 6; got 7 in {text!r}.")
    cron = " ".join(fields)
    try:
        next(_firings(cron, datetime.now(UTC)))
    except (CronSimError, StopIteration) as error:
        raise UserError(f"Invalid cron expression {text!r}: {error or 'it never fires'}.") from None
    return cron


def announce(text: str) -> str:
    """Print a cron expression in words and its next times; return it with six fields."""
    if not text:
        raise UserError("A schedule needs --cron, e.g. --cron='0 2 * * *' (each night at 2).")
    expression = read(text)
    firings = next_firings(expression, datetime.now(UTC), 3)
    print(f"{words(expression)} (UTC), next:")
    for firing in firings:
        print(f"  {firing:%a %d %b %Y %H:%M:%S}")
    return expression


def words(cron: str) -> str:
    """Describe an expression that `read` returned, e.g. "At 02:00 every day"."""
    return _firings(cron, datetime.now(UTC)).explain()


def next_firings(cron: str, after: datetime, count: int) -> list[datetime]:
    """Return the first `count` times after `after` at which a schedule fires, in UTC."""
    firings = _firings(cron, after)
    return [next(firings) for _ in range(count)]


def _firings(cron: str, after: datetime) -> CronSim:
    return CronSim(cron.replace("?", "*"), after)
