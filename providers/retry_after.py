"""Reads one header, `Retry-After`. Pure: the present instant comes in, and nothing is rounded or capped here."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

# Nine digits are 31 years; a longer number is no wait that anybody meant.
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def parse_retry_after(value: str | None, *, date_header: str | None, now: datetime) -> timedelta | None:
    """Return the wait a server asked for, never negative; None when it asked for nothing readable.

    Args:
        value: The header: whole seconds, an HTTP date in any of its three forms, or a decimal such as "1.5", which
            no standard allows and some servers send.
        date_header: The same answer's `Date`. The wait is counted from it, so that a server whose clock is wrong
            still gets the wait it meant.
        now: Stands in when `date_header` is absent or unreadable.

    Source: RFC 9110, HTTP Semantics, sections 5.6.7 and 10.2.3, read 2026-11-22.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return timedelta(seconds=float(text))
    until = _instant(text)
    if until is None:
        return None
    return max(until - (_instant(date_header or "") or now), timedelta())


def _instant(text: str) -> datetime | None:
    # A number is no date, but the standard parser reads some, so it only sees text that begins like a week day.
    if not text[:3].isalpha():
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
