"""How long the system took to be itself again after each fault, read from the ledger's own times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tests.faults.ground import Ground

# Waiting for nothing but a worker: due, in turn, never attempted, and its hint is all that would bring it to one.
_UNTOUCHED = """
    SELECT id FROM deliveries WHERE state = 'ready' AND attempts = 0 AND next_at <= now() AND order_key IS NULL
"""
_FIRST_ATTEMPTS = """
    SELECT extract(epoch FROM min(a.started_at) - CAST(:struck AS timestamptz))::float8 AS seconds
    FROM attempts a WHERE a.delivery_id = ANY(CAST(:ids AS uuid[])) GROUP BY a.delivery_id
"""
_LEFT = """
    SELECT count(*) FROM deliveries d WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.state IN ('ready', 'waiting')
      AND d.attempts = 0
"""
_IN_HAND = """
    SELECT count(*) FROM attempts WHERE started_at <= :struck AND (ended_at IS NULL OR ended_at > :struck)
"""
_FIRST_OF_ANY = "SELECT min(ended_at) AS at FROM attempts WHERE started_at > :struck AND outcome = 'succeeded'"
_FROM_THE_DEAD = """
    SELECT extract(epoch FROM min(a.ended_at) - CAST(:died AS timestamptz))::float8 AS seconds
    FROM attempts a
    WHERE a.code = 'lease_lost' AND a.worker LIKE '%' || CAST(:worker AS text) AND a.ended_at > :died
    GROUP BY a.delivery_id, a.fence
"""


@dataclass(frozen=True)
class Struck:
    """One fault that struck.

    Attributes:
        at: When, by the ledger's clock (one machine: one clock).
        handed_over: Commands that had an answer by then.
        target: What it struck, None when nothing was there to strike.
        dead: Ends of the names of workers that it killed.
        note: Of the failpoint that it armed.
        untouched: Before a wipe of Redis: deliveries that waited for nothing but a worker.
    """

    kind: str
    at: datetime
    handed_over: int
    target: str | None
    dead: tuple[str, ...] = ()
    note: str | None = None
    untouched: tuple[UUID, ...] = ()


def untouched(ground: Ground) -> tuple[UUID, ...]:
    """Return the deliveries whose hints are all that a wipe of Redis can take away."""
    return tuple(row.id for row in ground.sql(_UNTOUCHED))


def is_recovered(ground: Ground, struck: Struck) -> bool:
    """Tell whether everything that waited at a wipe was attempted."""
    return not ground.sql(_LEFT, ids=list(struck.untouched))[0][0]


def works_now(ground: Ground, since: datetime) -> bool:
    """Tell whether an attempt that began since then succeeded."""
    return ground.sql(_FIRST_OF_ANY, struck=since)[0].at is not None


def in_hand(ground: Ground, struck: Struck) -> int:
    """Return how many attempts were under way when the fault struck."""
    return int(ground.sql(_IN_HAND, struck=struck.at)[0][0])


def next_success(ground: Ground, struck: Struck) -> float | None:
    """Return the seconds until an attempt that began after the fault succeeded; None when none did."""
    found = ground.sql(_FIRST_OF_ANY, struck=struck.at)[0].at
    return None if found is None else float((found - struck.at).total_seconds())


def attempted(ground: Ground, struck: Struck) -> list[float]:
    """Return, for each delivery that a wipe left without a hint, the seconds until its first attempt."""
    return [float(row.seconds) for row in ground.sql(_FIRST_ATTEMPTS, struck=struck.at, ids=list(struck.untouched))]


def freed_after_death(ground: Ground, struck: Struck) -> list[float]:
    """Return, for each delivery that died with a worker, the seconds until it was free for others or uncertain."""
    deaths = [(worker, struck.at) for worker in struck.dead]
    if struck.note is not None and struck.note.startswith("exit"):
        deaths += [taken for note, taken in ground.struck_at_points().items() if note == struck.note]
    return [
        float(row.seconds) for worker, died in deaths for row in ground.sql(_FROM_THE_DEAD, died=died, worker=worker)
    ]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which this share lies; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
