"""Which workers are at work, and what each was started with, so that the processes of one ledger can be compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine, text

from ledger.database import transaction

_SIGN = text("""
    WITH gone AS (
      DELETE FROM roster WHERE seen_at < now() - interval '1 day' AND name <> :name
    )
    INSERT INTO roster (name, facts, seen_at) VALUES (:name, CAST(:facts AS jsonb), now())
    ON CONFLICT (name) DO UPDATE SET facts = excluded.facts, seen_at = excluded.seen_at
""")
_LEAVE = text("DELETE FROM roster WHERE name = :name")
_PRESENT = text("""
    SELECT name, facts FROM roster WHERE seen_at > now() - :within_s * interval '1 second' ORDER BY name
""")


@dataclass(frozen=True)
class Present:
    """A worker that is at work.

    Attributes:
        name: Machine and process id.
        facts: What it was started with; no secret. Shape: {"version": "0.1.0", "keys": "9f86d081", ...}
    """

    name: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Roster:
    """The list of workers in a ledger. Each call raises LedgerUnavailable where Postgres is away."""

    engine: Engine

    def sign(self, worker: Present) -> None:
        """Note that a worker is at work now."""
        with transaction(self.engine) as connection:
            connection.execute(_SIGN, {"name": worker.name, "facts": json.dumps(dict(worker.facts))})

    def leave(self, name: str) -> None:
        """Remove a worker from the list."""
        with transaction(self.engine) as connection:
            connection.execute(_LEAVE, {"name": name})

    def present(self, *, within: timedelta) -> list[Present]:
        """Return the workers that signed lately."""
        with transaction(self.engine) as connection:
            rows = connection.execute(_PRESENT, {"within_s": within.total_seconds()})
            return [Present(row.name, row.facts) for row in rows]
