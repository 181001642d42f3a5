"""What an operator may change. Every action leaves an audit row: who, what, when, why."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine, Row, text

from delivery.ports import Hint
from ledger.database import transaction
from ledger.models import PRIORITIES

# A replay starts from fresh budgets and gets its whole time again; the timeline keeps what was tried before. What may
# have arrived becomes uncertain again: it is looked up, and only then sent once more. Where a fallback is on its way or
# succeeded, the first stays: never both.
_REPLAY = text("""
    WITH replayed AS (
      UPDATE deliveries d
         SET state = CASE WHEN d.code = 'unconfirmed' THEN 'uncertain' ELSE 'ready' END,
             hold_uncertain = 0, resent = 0, looked_at = NULL, tries = '{}', parks = 0,
             stuck_since = CASE WHEN d.code = 'unconfirmed' THEN now() END,
             next_at = now(), hinted_at = now(), settled_at = NULL,
             expires_at = now() + (d.expires_at - d.created_at)
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.state IN ('dead', 'held')
        AND NOT EXISTS (SELECT FROM deliveries f
                        WHERE f.id = d.fallback_id AND f.state NOT IN ('dead', 'canceled', 'expired'))
      RETURNING d.id, d.kind, d.priority
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'replayed', id, :reason FROM replayed
    )
    SELECT id, kind, priority FROM replayed
""")
_PAUSE = text("""
    WITH shut AS (
      INSERT INTO accounts (name, held_reason, held_at) VALUES (:account, :reason, now())
      ON CONFLICT (name) DO UPDATE SET held_reason = :reason, held_at = now()
      RETURNING name
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'paused', name, :reason FROM shut
""")
_RESUME = text("""
    WITH opened AS (
      UPDATE accounts SET held_reason = NULL, held_at = NULL WHERE name = :account RETURNING name
    ), freed AS (
      UPDATE deliveries d
         SET state = 'ready', next_at = now(), hinted_at = now(),
             expires_at = greatest(d.expires_at, now() + interval '1 hour')
      FROM opened WHERE d.account = opened.name AND d.state = 'held'
      RETURNING d.id, d.kind, d.priority
    ), written AS (
      INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'resumed', name, :reason FROM opened
    )
    SELECT id, kind, priority FROM freed
""")
_RECORD_HEALTH = text("""
    INSERT INTO accounts (name, health, health_note, probed_at) VALUES (:account, :health, :note, now())
    ON CONFLICT (name) DO UPDATE SET health = :health, health_note = :note, probed_at = now()
""")
_TICK = text("INSERT INTO ticks (name, at) VALUES (:name, now()) ON CONFLICT (name) DO UPDATE SET at = now()")


@dataclass(frozen=True)
class Desk:
    """The operator's hand on the ledger.

    Attributes:
        actor: Who acts, for the audit trail.
    """

    engine: Engine
    actor: str

    def replay(self, ids: Collection[UUID], *, reason: str) -> list[Hint]:
        """Make dead or held deliveries ready again; others are left alone. Return those that changed."""
        with transaction(self.engine) as connection:
            values = {"ids": list(ids), "actor": self.actor, "reason": reason}
            return [_hint(row) for row in connection.execute(_REPLAY, values)]

    def pause(self, account: str, *, reason: str) -> None:
        """Hold every delivery of an account from its next attempt on."""
        with transaction(self.engine) as connection:
            connection.execute(_PAUSE, {"account": account, "actor": self.actor, "reason": reason})

    def resume(self, account: str, *, reason: str) -> list[Hint]:
        """Open an account again and free its held deliveries. Return those."""
        with transaction(self.engine) as connection:
            values = {"account": account, "actor": self.actor, "reason": reason}
            return [_hint(row) for row in connection.execute(_RESUME, values)]

    def record_health(self, account: str, *, health: str, note: str) -> None:
        """Keep what the last probe of an account found; `health` is "ok" or an error code."""
        with transaction(self.engine) as connection:
            connection.execute(_RECORD_HEALTH, {"account": account, "health": health, "note": note[:300]})

    def record_tick(self, name: str) -> None:
        """Keep that a task of beat's ran to its end: proof that beat, broker, worker and ledger work together."""
        with transaction(self.engine) as connection:
            connection.execute(_TICK, {"name": name})

    def forget_ticks(self) -> None:
        """Drop the ticks of an earlier life, so that readiness waits for a new one."""
        with transaction(self.engine) as connection:
            connection.execute(text("DELETE FROM ticks"))


def _hint(row: Row[tuple[UUID, str, int]]) -> Hint:
    return Hint(row.id, row.kind, PRIORITIES[row.priority])
