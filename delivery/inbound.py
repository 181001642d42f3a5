"""What a provider tells us by itself, in our words: progress of a delivery, a person's message or wish, its own news.

Adapters turn a webhook's body into these; the ledger stores them before the webhook is answered and works on them
afterwards. Text that a person wrote passes `clean` on its way in and is data for ever, never an instruction.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Literal, NamedTuple
from uuid import UUID

from pydantic import JsonValue

from delivery.instants import in_utc

Json = Mapping[str, JsonValue]
Kind = Literal["status", "message", "notice", "consent", "template", "account"]
Consent = Literal["stop", "resume"]

# Every step is told by its own event and they come in any order: the furthest one counts. A message that arrived after
# all was not failed, and one that bounced back was not read. Source: WhatsApp Cloud API, status webhooks, read
# 2026-11-22 ("delivered" may be left out, "failed" may follow "sent"); bounces: RFC 3464, read 2026-11-22.
LADDER = ("sent", "failed", "delivered", "read", "bounced")
FAILURES = ("failed", "bounced")

LONGEST_TEXT = 4096
_LONGEST_NAME, _MOST_ENTRIES, _DEEPEST = 128, 100, 8
# Everything that could end a line of a log, hide a part or turn the reading direction; a plain line break may stay.
_UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class Event:
    """One thing that a provider told.

    Attributes:
        key: The provider's event: a repeat has the same one.
        at: When it happened, by the provider's clock; None when it did not say.
        delivery_id: Ours, as the provider echoed it.
        status: A step of `LADDER`; None for one that nobody knows.
        receipt: The provider's id of the message that it is about.
        code: Why it failed, in our words.
        provider_code: The same in the provider's.
        person: Who it is about, written as a command's recipient would be.
        alias: The same person under another name, e.g. a user id beside a phone number.
        window_until: Until when this message lets us answer freely.
        consent: The person's wish about marketing.
        content: What was said. Sealed for the person where there is one; else facts that concern nobody.
    """

    key: str
    kind: Kind
    at: datetime | None = None
    delivery_id: UUID | None = None
    status: str | None = None
    receipt: str | None = None
    code: str | None = None
    provider_code: str | None = None
    person: str | None = None
    alias: str | None = None
    window_until: datetime | None = None
    consent: Consent | None = None
    content: Json = field(default_factory=dict)


class Told(NamedTuple):
    """What one webhook told.

    Attributes:
        skipped: Why and how often a part was left out, in words without values.
    """

    events: list[Event]
    skipped: Mapping[str, int]


def recent(told: Told, *, since: datetime) -> Told:
    """Return what was told without what was told of a person earlier; an event without a time counts as recent."""
    events = [each for each in told.events if each.person is None or each.at is None or each.at >= since]
    old = len(told.events) - len(events)
    return Told(events, {**told.skipped, "too old": old}) if old else told


def clean(value: object, *, longest: int = LONGEST_TEXT, depth: int = _DEEPEST) -> JsonValue:
    """Return JSON from outside without control and direction characters, its length, breadth and depth capped.

    What cannot stand in JSON, and what lies too deep, becomes None.
    """
    if isinstance(value, str):
        return clean_text(value, longest=longest)
    if isinstance(value, Mapping) and depth:
        pairs = list(value.items())[:_MOST_ENTRIES]
        return {
            clean_text(str(name), longest=_LONGEST_NAME): clean(each, longest=longest, depth=depth - 1)
            for name, each in pairs
        }
    if isinstance(value, list) and depth:
        return [clean(each, longest=longest, depth=depth - 1) for each in value[:_MOST_ENTRIES]]
    if isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    return None


def clean_text(text: str, *, longest: int = LONGEST_TEXT) -> str:
    """Return one text as `clean` does."""
    return _UNSAFE.sub("", text.replace("\r\n", "\n"))[:longest]


def at_path(body: object, path: str) -> object:
    """Return what stands at a dotted path such as "data.0.id", or None."""
    found = body
    for part in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def word_at(body: object, path: str, *, longest: int = 255) -> str | None:
    """Return the text or number at a path as a text of at most this length; None for anything else."""
    found = at_path(body, path)
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    text = clean_text(str(found)) if isinstance(found, str) else str(found)
    return text if 0 < len(text) <= longest else None


def uuid_at(body: object, path: str) -> UUID | None:
    """Return the delivery id at a path, or None when something else stands there."""
    found = at_path(body, path)
    try:
        return UUID(found) if isinstance(found, str) else None
    except ValueError:
        return None


def instant_at(body: object, path: str) -> datetime | None:
    """Return the instant at a path, in seconds since 1970 or as ISO 8601; None for anything else.

    An instant outside the years 2000 to 2099 is none either: the event counts as one without a time.
    """
    found = word_at(body, path, longest=40)
    try:
        if found is None:
            return None
        if found.isdigit():
            return in_utc(datetime.fromtimestamp(int(found), UTC))
        read = datetime.fromisoformat(found)
        return in_utc(read if read.tzinfo else read.replace(tzinfo=UTC))
    except (ValueError, OverflowError, OSError):
        return None
