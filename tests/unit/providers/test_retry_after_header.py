"""The `Retry-After` header in every form that servers send."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.retry_after import parse_retry_after

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DATE = "Sun, 22 Nov 2026 11:59:00 GMT"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("0", timedelta(), id="zero"),
        pytest.param("120", timedelta(minutes=2), id="whole seconds"),
        pytest.param("  7 ", timedelta(seconds=7), id="spaces around"),
        pytest.param("1.5", timedelta(seconds=1.5), id="a decimal"),
        pytest.param("120, 60", timedelta(minutes=2), id="two headers: the first counts"),
        pytest.param("120;comment", timedelta(minutes=2), id="a parameter"),
        pytest.param("1m0s", timedelta(minutes=1), id="a duration as Go writes it"),
        pytest.param("1h1m1.5s", timedelta(hours=1, minutes=1, seconds=1.5), id="with hours"),
        pytest.param("90s, 5s", timedelta(seconds=90), id="two durations"),
        pytest.param("9999999999", timedelta(seconds=1e9), id="huge: as long as can be told"),
        pytest.param("9" * 5000, timedelta(seconds=1e9), id="five thousand digits"),
        pytest.param("999999999h", timedelta(seconds=1e9), id="a huge duration"),
        pytest.param("Sun, 22 Nov 2026 12:00:30 GMT", timedelta(seconds=30), id="IMF-fixdate"),
        pytest.param("Sunday, 22-Nov-26 12:00:30 GMT", timedelta(seconds=30), id="RFC 850"),
        pytest.param("Sun Nov 22 12:00:30 2026", timedelta(seconds=30), id="asctime"),
        pytest.param("Sun, 22 Nov 2026 11:00:00 GMT", timedelta(), id="a date gone by"),
    ],
)
def test_a_readable_wait_is_understood(value: str, expected: timedelta) -> None:
    assert parse_retry_after(value, date_header=None, now=NOW) == expected


@pytest.mark.parametrize(
    "value",
    [None, "", "-1", "-1.5", "1.", "1e3", "١٢", "soon", "s", "m", ", 60", "Sun, 99 Nov 2026 12:00:00 GMT", "inf"],
)
def test_anything_else_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, date_header=None, now=NOW) is None


def test_a_date_is_counted_from_the_servers_own_clock() -> None:
    wait = parse_retry_after("Sun, 22 Nov 2026 12:00:00 GMT", date_header=DATE, now=NOW)

    assert wait == timedelta(minutes=1)


def test_an_unreadable_date_of_the_answer_leaves_our_clock() -> None:
    wait = parse_retry_after("Sun, 22 Nov 2026 12:00:10 GMT", date_header="yesterday", now=NOW)

    assert wait == timedelta(seconds=10)


def test_seconds_need_no_clock() -> None:
    assert parse_retry_after("5", date_header=DATE, now=NOW) == timedelta(seconds=5)


@pytest.mark.parametrize("offset", ["GMT", "-1400", "+1400", "+9999"])
@pytest.mark.parametrize("year", ["0001", "9999", "10000"])
def test_a_date_of_any_year_is_a_wait_or_none(year: str, offset: str) -> None:
    wait = parse_retry_after(
        f"Fri, 31 Dec {year} 23:59:59 {offset}", date_header=f"Mon, 01 Jan {year} 00:00:00", now=NOW
    )

    assert wait is None or wait >= timedelta()


@given(st.text(), st.text())
def test_no_header_is_a_fault(value: str, date: str) -> None:
    wait = parse_retry_after(value, date_header=date, now=NOW)

    assert wait is None or wait >= timedelta()


@given(st.text("SunMonFri,-/0123456789 :GMTNovDec+"), st.text("Sun, 0123456789 :GMTNov+-"))
def test_nothing_like_a_date_is_a_fault(value: str, date: str) -> None:
    wait = parse_retry_after("Sun" + value, date_header="Sun" + date, now=NOW)

    assert wait is None or wait >= timedelta()
