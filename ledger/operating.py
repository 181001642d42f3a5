"""What an operator may change of accounts, each with an audit row. Dead letters stand in `ledger.letters`."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Engine, Row, text

from delivery.ports import Hint
from ledger.database import transaction
from ledger.models import PRIORITIES

_PAUSE = text("""
    WITH shut AS (
      INSERT INTO accounts (name, held_reason, held_at) VALUES (:account, :reason, now())
      ON CONFLICT (name) DO UPDATE SET held_reason = :reason, held_code = NULL, held_at = now()
      RETURNING name
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'paused', name, :reason FROM shut
""")
_RESUME = text("""
    WITH opened AS (
      UPDATE accounts SET held_reason = NULL, held_code = NULL, held_at = NULL WHERE name = :account RETURNING name
    ), over AS (
      DELETE FROM alerts WHERE account = :account
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
_NOTE = text("INSERT INTO audit (actor, action, account, reason) VALUES (:actor, :action, :account, :reason)")
_RECORD_HEALTH = text("""
    INSERT INTO accounts (name, health, health_note, probed_at) VALUES (:account, :health, :note, now())
    ON CONFLICT (name) DO UPDATE SET health = :health, health_note = :note, probed_at = now()
""")
# Ticks come a little early or late: one that comes within four fifths of the interval is the same tick again.
_TICK = text("""
    INSERT INTO ticks AS t (name, at) VALUES (:name, now())
    ON CONFLICT (name) DO UPDATE SET at = now() WHERE t.at < now() - :every_s * 0.8 * interval '1 second'
    RETURNING name
""")


@dataclass(frozen=True)
class Desk:
    """The operator's hand on the ledger.

    Attributes:
        actor: Who acts, for the audit trail.
    """

    engine: Engine
    actor: str

    def pause(self, account: str, *, reason: str) -> None:
        """Hold every delivery of an account from its next attempt on."""
        with transaction(self.engine) as connection:
            connection.execute(_PAUSE, {"account": account, "actor": self.actor, "reason": reason})

    def resume(self, account: str, *, reason: str) -> list[Hint]:
        """Open an account again, free its held deliveries and end its alerts. Return those deliveries."""
        with transaction(self.engine) as connection:
            values = {"account": account, "actor": self.actor, "reason": reason}
            return [_hint(row) for row in connection.execute(_RESUME, values)]

    def note(self, action: str, *, account: str | None = None, reason: str | None = None) -> None:
        """Leave an audit row for something that was done outside the ledger."""
        with transaction(self.engine) as connection:
            values = {"actor": self.actor, "action": action, "account": account, "reason": reason}
            connection.execute(_NOTE, values)

    def record_health(self, account: str, *, health: str, note: str) -> None:
        """Keep what the last probe of an account found; `health` is "ok" or an error code."""
        with transaction(self.engine) as connection:
            connection.execute(_RECORD_HEALTH, {"account": account, "health": health, "note": note[:300]})

    def begin_tick(self, name: str, *, every: timedelta) -> bool:
        """Take a tick of the timetable; False when somebody took it already, however many beats there are.

        The last tick taken is also proof that a clock, the broker, a worker and the ledger work together.
        """
        with transaction(self.engine) as connection:
            return connection.scalar(_TICK, {"name": name, "every_s": every.total_seconds()}) is not None

    def forget_ticks(self) -> None:
        """Drop the ticks of an earlier life, so that readiness waits for a new one."""
        with transaction(self.engine) as connection:
            connection.execute(text("DELETE FROM ticks"))


def _hint(row: Row[tuple[UUID, str, int]]) -> Hint:
    return Hint(row.id, row.kind, PRIORITIES[row.priority])
