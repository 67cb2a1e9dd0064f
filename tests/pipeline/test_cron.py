from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cron
from trainer.common.errors import UserError

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)  # a Saturday


@pytest.mark.parametrize(
    "text, fields, words, first",
    [
        ("0 2 * * *", "0 0 2 * * *", "At 02:00 every day", "2026-02-01 02:00:00"),
        ("30 0 2 * * 0", "30 0 2 * * 0", "At 02:00:30 on Sunday", "2026-02-01 02:00:30"),
        ("0 9 ? * MON", "0 0 9 ? * MON", "At 09:00 on Monday", "2026-02-02 09:00:00"),
        (
            "*/15 8-18 * * 1-5",
            "0 */15 8-18 * * 1-5",
            "Every 15th minute from 08:00 through 18:59 on Monday through Friday",
            "2026-02-02 08:00:00",
        ),
        (
            "30 1 29 feb *",
            "0 30 1 29 feb *",
            "At 01:30 on February 29",
            "2028-02-29 01:30:00",
        ),
    ],
)
def test_cron_expression_its_description_and_next_time(text, fields, words, first):
    assert cron.read(text) == fields
    assert cron.words(fields) == words
    (firing,) = cron.next_firings(fields, NOON, 1)
    assert firing.isoformat(" ") == f"{first}+00:00"


@pytest.mark.parametrize(
    "text, message",
    [
        ("0 2 * *", "has 5 or 6 fields, .*; got 4: '0 2 "),
        ("0 0 2 * * * *", "got 7"),
        ("@daily", "got 1"),
        ("0 2 L * *", "consists of digits, names such as MON and JAN, .* got 'L' in '0 2 L"),
        ("0 2 * * 1#2", "got '#'"),
        ("0 2 * * 7", "The days of the week are 0 .Sunday. to 6; got 7"),
        ("61 2 * * *", "Invalid cron expression '.*': Bad minute"),
        ("0 2 31 2 *", "Invalid cron expression '.*': Bad day-of-month"),
        ("0 2 * XYZ *", "Invalid cron expression '.*': Bad month"),
    ],
)
def test_expression_that_the_scheduler_rejects_is_an_error(text, message):
    with pytest.raises(UserError, match=message):
        cron.read(text)


@given(minute=st.integers(0, 59), hour=st.integers(0, 23), day=st.integers(0, 6))
def test_next_firings_match_the_expression(minute, hour, day):
    firings = cron.next_firings(cron.read(f"{minute} {hour} * * {day}"), NOON, 3)
    assert all((f.minute, f.hour, f.isoweekday() % 7) == (minute, hour, day) for f in firings)
    gaps = [(late - early).days for early, late in zip([NOON, *firings], firings, strict=False)]
    assert gaps[0] < 7
    assert gaps[1:] == [7, 7]
