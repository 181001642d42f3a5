"""Reads one header, `Retry-After`. Pure: the present instant comes in, and nothing is rounded or capped here."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# The first number counts: two headers of one answer come as "120, 60".
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:\s*[,;\s].*)?", re.DOTALL)
# As Go writes a duration: "1m0s", "90s", "1h0m0.5s". No standard allows it, and some servers send it.
_DURATION = re.compile(
    r"(?=.*[a-z])(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s)?(?:[,;\s].*)?"
)
# A longer wait than 31 years is not told from this one; `retry_after_cap` of the spec says what is believed.
_LONGEST_S = 1e9


def parse_retry_after(value: str | None, *, date_header: str | None, now: datetime) -> timedelta | None:
    """Return the wait a server asked for, never negative; None when it asked for nothing readable.

    Args:
        value: The header: whole seconds, an HTTP date in any of its three forms, or, which no standard allows and
            some servers send, a decimal such as "1.5", several values, or a duration such as "1m0s".
        date_header: The same answer's `Date`. The wait is counted from it, so that a server whose clock is wrong
            still gets the wait it meant.
        now: Stands in when `date_header` is absent or unreadable.

    Source: RFC 9110, HTTP Semantics, sections 5.6.7 and 10.2.3, read 2026-11-22.
    """
    text = (value or "").strip()
    seconds = _seconds(text)
    if seconds is not None:
        return timedelta(seconds=min(seconds, _LONGEST_S))
    until = _instant(text)
    if until is None:
        return None
    return max(until - (_instant(date_header or "") or now), timedelta())


def _seconds(text: str) -> float | None:
    if found := _SECONDS.fullmatch(text):
        return float(found[1])
    if found := _DURATION.fullmatch(text):
        hours, minutes, seconds = (float(each or 0) for each in found.groups())
        return 3600 * hours + 60 * minutes + seconds
    return None


def _instant(text: str) -> datetime | None:
    # A number is no date, but the standard parser reads some, so it only sees text that begins like a week day.
    if not text[:3].isalpha():
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
