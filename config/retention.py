"""How long the ledger keeps what it no longer needs. Data, and how it is written in ENTREGA_KEEP."""

from dataclasses import asdict, dataclass, replace
from datetime import timedelta

_WANTED = 'wanted days, e.g. "payloads=30,dead_letters=90,events=30,records=400"'
# Meta repeats a webhook for up to 7 days; one that was forgotten earlier would be worked on twice.
SHORTEST_EVENTS = timedelta(days=9)


@dataclass(frozen=True)
class Periods:
    """Counted from the end of a delivery, or from when an event was stored. What is open has no period.

    Attributes:
        payloads: The command of a delivery that succeeded, was canceled or expired.
        dead_letters: The command of a dead letter; without it nobody can replay it.
        events: What providers told, and what people wrote.
        records: The delivery itself with its attempts and its audit trail: masked and hashed, no content.
    """

    payloads: timedelta = timedelta(days=30)
    dead_letters: timedelta = timedelta(days=90)
    events: timedelta = timedelta(days=30)
    records: timedelta = timedelta(days=400)


def periods_of(text: str) -> Periods:
    """Return the periods that a text names; what it leaves out keeps its default.

    Raises:
        ValueError: An unknown name, something else than whole days, or a record shorter than what it is a record of.
    """
    days = dict(_pair(each) for each in text.replace(",", " ").split())
    unknown = days.keys() - asdict(Periods()).keys()
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; {_WANTED}")
    periods = replace(Periods(), **days)
    if periods.records < max(periods.payloads, periods.dead_letters):
        raise ValueError("records must be at least as long as payloads and dead_letters")
    if periods.events < SHORTEST_EVENTS:
        raise ValueError("events must be at least 9: providers repeat theirs for up to 7 days")
    return periods


def _pair(word: str) -> tuple[str, timedelta]:
    name, _, days = word.partition("=")
    if not (days.isascii() and days.isdigit() and 1 <= int(days) <= 36500):  # noqa: PLR2004 - a hundred years
        raise ValueError(_WANTED)
    return name, timedelta(days=int(days))
