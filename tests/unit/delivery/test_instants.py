from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from delivery.fields import STORED
from delivery.inbound import instant_at
from delivery.instants import EARLIEST, LATEST, Instant, in_utc

READ = TypeAdapter(Instant).validate_python


OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def read(value):
    try:
        return in_utc(value)
    except ValueError:
        return None


@given(st.datetimes(), OFFSETS)
def test_an_instant_is_in_utc_and_of_our_years_or_refused(moment, offset):
    value = moment.replace(tzinfo=offset)

    found = read(value)

    assert found is None or (found == value and found.tzinfo is UTC and EARLIEST <= found < LATEST)
    assert found is not None or not 2000 < moment.year < 2099


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-11-22T12:00:00-23:59", datetime(2026, 11, 23, 11, 59, tzinfo=UTC)),
        ("2026-11-22T12:00:00+16:00", datetime(2026, 11, 21, 20, tzinfo=UTC)),
        ("2099-12-31T23:59:59Z", datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_an_offset_that_postgres_refuses_is_converted(written, instant):
    assert READ(written) == instant
    assert READ(written).utcoffset() == timedelta()


@pytest.mark.parametrize(
    "written",
    ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2100-01-01T00:00:00Z", "2026-11-22T12:00:00", 1e18, -1],
)
def test_another_year_or_no_offset_is_refused(written):
    with pytest.raises(ValidationError):
        READ(written)


@pytest.mark.parametrize(
    "told",
    ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "10000-01-01T00:00:00Z", "99999999999", "-1", "1"],
)
def test_a_webhook_with_a_time_of_another_age_counts_as_without_one(told):
    assert instant_at({"at": told}, "at") is None


def test_what_was_accepted_before_this_rule_is_read_as_the_end_of_our_years():
    late = "9999-12-31T23:59:59-14:00"

    assert TypeAdapter(Instant).validate_python(late, context=STORED) == LATEST
