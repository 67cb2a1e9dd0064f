from datetime import datetime

import pytest

from components.dates import fill_in
from trainer.common.errors import UserError

MOMENT = datetime(2026, 3, 1, 2)


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("gs://b/train*.tfrecord", "gs://b/train*.tfrecord"),
        ("gs://b/{date}/train*", "gs://b/20260301/train*"),
        ("/data/{date:%Y/%m/%d}/train*", "/data/2026/03/01/train*"),
        ("{date-1d}/a*,{date-0d:%y%j}/b*", "20260228/a*,26060/b*"),
        ("{date-365d:%Y}", "2025"),
        ("odd{name}/a*", "odd{name}/a*"),
    ],
)
def test_dates_are_filled_in(pattern, expected):
    assert fill_in(pattern, MOMENT) == expected


@pytest.mark.parametrize("pattern", ["{date+1d}", "{Date}", "{date:}x{date -1d}", "{ date }"])
def test_what_is_nearly_a_date_is_an_error(pattern):
    with pytest.raises(UserError, match=r"A date template must be like \{date\}, .*; got '\{"):
        fill_in(f"gs://b/{pattern}/train*", MOMENT)
