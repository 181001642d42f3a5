"""How long the system took to be itself again after each fault, read from the ledger's own times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tests.faults.ground import Ground

# The first proof of a delivery that nobody had attempted when the fault struck. Those that were retried later wait for
# their own time, and those in a worker's hands were not touched by a wipe: neither proves anything.
_FIRST = """
    SELECT min(a.ended_at) AS at FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
    WHERE a.started_at > :struck AND a.outcome = 'succeeded' AND d.created_at < :struck
      AND NOT EXISTS (SELECT FROM attempts b WHERE b.delivery_id = d.id AND b.started_at <= :struck)
"""
_UNTOUCHED = """
    SELECT count(*) FROM deliveries d WHERE d.state = 'ready' AND d.attempts = 0 AND d.created_at < :struck
"""
_FIRST_OF_ANY = "SELECT min(ended_at) AS at FROM attempts WHERE started_at > :struck AND outcome = 'succeeded'"
_WAITING = """
    SELECT extract(epoch FROM min(a.started_at) - CAST(:struck AS timestamptz))::float8 AS seconds
    FROM attempts a JOIN deliveries d ON d.id = a.delivery_id WHERE d.created_at < :struck
    GROUP BY a.delivery_id HAVING min(a.started_at) > :struck
"""
_FROM_THE_DEAD = """
    SELECT extract(epoch FROM min(a.ended_at) - CAST(:struck AS timestamptz))::float8 AS seconds
    FROM attempts a
    WHERE a.code = 'lease_lost' AND a.worker LIKE '%' || CAST(:worker AS text) GROUP BY a.delivery_id, a.fence
"""


@dataclass(frozen=True)
class Struck:
    """One fault that struck.

    Attributes:
        at: When, by the ledger's clock (one machine: one clock).
        handed_over: Commands that had an answer by then.
        dead: Ends of the names of workers that it killed.
    """

    kind: str
    at: datetime
    handed_over: int
    dead: tuple[str, ...] = ()


def first_success(ground: Ground, struck: Struck) -> float | None:
    """Return the seconds until a delivery that was untouched when the fault struck was proved; None when none was."""
    found = ground.sql(_FIRST, struck=struck.at)[0].at
    return None if found is None else float((found - struck.at).total_seconds())


def is_recovered(ground: Ground, struck: Struck) -> bool:
    """Tell whether something was proved since, or nothing is left that could be."""
    return first_success(ground, struck) is not None or not ground.sql(_UNTOUCHED, struck=struck.at)[0][0]


def works_now(ground: Ground, since: datetime) -> bool:
    """Tell whether an attempt that began since then succeeded."""
    return ground.sql(_FIRST_OF_ANY, struck=since)[0].at is not None


def attempted(ground: Ground, struck: Struck) -> list[float]:
    """Return, for each delivery that had never been attempted when the fault struck, the seconds until it was."""
    return [float(row.seconds) for row in ground.sql(_WAITING, struck=struck.at)]


def freed_after_death(ground: Ground, struck: Struck) -> list[float]:
    """Return, for each delivery that died with a worker, the seconds until it was free for others or uncertain."""
    return [
        float(row.seconds) for worker in struck.dead
        for row in ground.sql(_FROM_THE_DEAD, struck=struck.at, worker=worker)
    ]  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which this share lies; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
