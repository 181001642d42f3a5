"""Instants from outside: one type for every door, in UTC, of the years 2000 to 2099.

Source: Python's `datetime` ends with year 9999; PostgreSQL refuses offsets beyond ±15:59:59 ("time zone displacement
out of range"); measured 2026-11-30.
"""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, ValidationInfo

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def in_utc(value: datetime) -> datetime:
    """Return an aware instant in UTC.

    Raises:
        ValueError: It lies outside the years 2000 to 2099.
    """
    try:
        found = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("instant") from None
    if not EARLIEST <= found < LATEST:
        raise ValueError("instant")
    return found


def _instant(value: datetime, info: ValidationInfo) -> datetime:
    try:
        return in_utc(value)
    except ValueError:
        if (info.context or {}).get("stored"):  # accepted before this rule
            return LATEST
        raise


Instant = Annotated[AwareDatetime, AfterValidator(_instant)]
