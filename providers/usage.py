"""Reads how much of its limits a provider says we have used: headers that the form names, garbage ignored and counted.

Source: Graph API, rate limits (X-App-Usage and X-Business-Use-Case-Usage, in percent and minutes), and the draft
"RateLimit header fields for HTTP" with its X- forerunners (a reset is seconds, or an instant since 1970), read
2026-11-22.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from config.spec_sections import UsageHeader
from delivery.outcomes import Usage

# The first number counts: "100, 100;w=60" is a limit of 100.
_NUMBER = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:[,;].*)?")
# A reset this large is an instant, in seconds or milliseconds since 1970; a smaller one is a wait in seconds.
_INSTANT_S, _INSTANT_MS = 1e9, 1e12
_MOST_PERCENT = 10_000.0
_LONGEST_WAIT_S = 366 * 86_400.0


def read_usage(headers: Mapping[str, str], rules: Sequence[UsageHeader], now: datetime) -> Usage | None:
    """Return the tightest of what the headers say; None when the answer has none of them.

    Args:
        headers: Of one answer, by name in either case.
        rules: The form's usage headers.
        now: What an instant in a header is held against.
    """
    found = [_read(rule, headers, now) for rule in rules if rule.header in headers]
    if not found:
        return None
    waits = [each.wait for each in found if each.wait]
    return Usage(min(each.room for each in found), max(waits, default=None), any(each.unreadable for each in found))


def _read(rule: UsageHeader, headers: Mapping[str, str], now: datetime) -> Usage:
    try:
        return _percent(rule, headers[rule.header]) if rule.percent_in else _remaining(rule, headers, now)
    except (ValueError, RecursionError):
        return Usage(unreadable=True)


def _percent(rule: UsageHeader, text: str) -> Usage:
    """Read percentages from JSON: an object of numbers, or of lists of such objects.

    Shape: {"call_count": 28, "total_time": 25} or {"<id>": [{"call_count": 100, "estimated_time_to_...": 12}]}
    """
    entries = list(_objects(json.loads(text)))
    used = [_plain(each[name]) for each in entries for name in rule.percent_in if name in each]
    minutes = [_plain(each[name]) for each in entries for name in (rule.minutes_in,) if name and name in each]
    readable = [each for each in used if each is not None and each <= _MOST_PERCENT]
    waits = [each for each in minutes if each is not None]
    wait = timedelta(seconds=min(max(waits, default=0) * 60, _LONGEST_WAIT_S)) or None
    unreadable = len(readable) + len(waits) < len(used) + len(minutes)
    return Usage(_room(max(readable, default=0) / 100, rule.slow_at), wait, unreadable)


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    if not isinstance(value, dict):
        raise ValueError("wanted a JSON object")  # noqa: TRY004 - what was read is wrong, not the program
    yield value
    for entries in value.values():
        yield from (each for each in (entries if isinstance(entries, list) else ()) if isinstance(each, dict))


def _plain(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _remaining(rule: UsageHeader, headers: Mapping[str, str], now: datetime) -> Usage:
    left = _number(headers[rule.header])
    limit = _number_in(headers, rule.limit_header) or rule.limit
    room = _room(1 - left / limit if limit else float(left == 0), rule.slow_at)
    try:
        reset = _number_in(headers, rule.reset_header) if left == 0 else None
    except ValueError:
        return Usage(room, unreadable=True)
    return Usage(room, None if reset is None else _until(reset, now))


def _number_in(headers: Mapping[str, str], name: str | None) -> float | None:
    return _number(headers[name]) if name and name in headers else None


def _number(text: str) -> float:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise ValueError("wanted a number")
    return float(found[1])


def _until(reset: float, now: datetime) -> timedelta | None:
    instant = reset / 1000 if reset >= _INSTANT_MS else reset
    seconds = instant - now.timestamp() if reset >= _INSTANT_S else reset
    return timedelta(seconds=min(seconds, _LONGEST_WAIT_S)) if seconds > 0 else None


def _room(used: float, slow_at: float) -> float:
    """Return 1 up to `slow_at`, then evenly less until nothing is left."""
    return min(1.0, max(0.0, (1 - used) / (1 - slow_at)))
