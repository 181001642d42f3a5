"""What an operator may change of accounts, each with an audit row. Dead letters stand in `ledger.letters`."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, text

from delivery.ports import Hint
from ledger.database import transaction
from ledger.models import PRIORITIES
from ledger.order import AWAITS_APPROVAL

_PAUSE = text("""
    WITH shut AS (
      INSERT INTO accounts (name, held_reason, held_at) VALUES (:account, :reason, now())
      ON CONFLICT (name) DO UPDATE SET held_reason = :reason, held_code = NULL, held_at = now()
      RETURNING name
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'paused', name, :reason FROM shut
""")
# Two statements: who held deliveries while the first one waited for the account has committed when the second looks.
_OPEN = text("""
    WITH opened AS (
      UPDATE accounts SET held_reason = NULL, held_code = NULL, held_at = NULL WHERE name = :account RETURNING name
    ), over AS (
      DELETE FROM alerts WHERE account = :account
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'resumed', name, :reason FROM opened
""")
_FREE = text(f"""
    UPDATE deliveries d
       SET state = 'ready', next_at = now(), hinted_at = now(),
           expires_at = greatest(d.expires_at, now() + interval '1 hour')
    WHERE d.account = :account AND d.state = 'held' AND NOT {AWAITS_APPROVAL}
      AND d.code IS DISTINCT FROM 'restored' -- those are let go by a replay, which looks first
    RETURNING d.id, d.kind, d.priority, d.order_key IS NOT NULL AS in_order
""")  # noqa: S608 - a piece of `ledger.order`
_PAUSE_ALL = text("""
    WITH shut AS (
      INSERT INTO switches (name, actor, reason) VALUES ('pause_all', :actor, :reason)
      ON CONFLICT (name) DO NOTHING
    )
    INSERT INTO audit (actor, action, reason) VALUES (:actor, 'paused_all', :reason)
""")
# In pieces, and before the switch is turned: nothing ends meanwhile, however much waits.
_GIVE_TIME = text("""
    WITH late AS (
      SELECT id FROM deliveries WHERE state IN ('ready', 'waiting') AND expires_at <= now() + interval '30 minutes'
      ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
    ), given AS (
      UPDATE deliveries d SET expires_at = now() + interval '1 hour' FROM late WHERE d.id = late.id RETURNING d.id
    )
    SELECT count(*) FROM given
""")
_RESUME_ALL = text("""
    WITH opened AS (
      DELETE FROM switches WHERE name = 'pause_all' RETURNING name
    )
    INSERT INTO audit (actor, action, reason) SELECT :actor, 'resumed_all', :reason FROM opened RETURNING id
""")
_STANDING = text("SELECT actor, reason, at FROM switches WHERE name = 'pause_all'")
# Rows given time in one transaction: far from the statement time-out.
_AT_ONCE = 5000
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
class Pause:
    """The pause of everything: who, why and since when."""

    actor: str
    reason: str
    at: datetime


def pause_of_all(engine: Engine) -> Pause | None:
    """Return the pause of everything that stands now, or None."""
    with transaction(engine) as connection:
        row = connection.execute(_STANDING).one_or_none()
        return None if row is None else Pause(row.actor, row.reason, row.at)


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
            connection.execute(_OPEN, {"account": account, "actor": self.actor, "reason": reason})
            freed = connection.execute(_FREE, {"account": account})
            return [
                Hint(row.id, row.kind, PRIORITIES[row.priority], alone=row.in_order, account=account) for row in freed
            ]

    def pause_all(self, *, reason: str) -> None:
        """Begin no attempt anywhere from the next claim on; commands are accepted and wait, and no time runs out."""
        with transaction(self.engine) as connection:
            connection.execute(_PAUSE_ALL, {"actor": self.actor, "reason": reason})

    def resume_all(self, *, reason: str) -> bool:
        """Let attempts begin again; what ran late meanwhile gets an hour. False when nothing was paused.

        The sweep takes up what is due, as fast as the providers take it.
        """
        if pause_of_all(self.engine) is None:
            return False
        while self._give_time() == _AT_ONCE:
            pass
        with transaction(self.engine) as connection:
            return connection.scalar(_RESUME_ALL, {"actor": self.actor, "reason": reason}) is not None

    def _give_time(self) -> int:
        with transaction(self.engine) as connection:
            return connection.scalar(_GIVE_TIME, {"most": _AT_ONCE}) or 0

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
