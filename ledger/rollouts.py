"""Rollouts in the table `switches`: `rollout:ACCOUNT` began at its instant, `rollback:ACCOUNT` was taken back then.

An account has one of the two rows, or none: then everything goes. Every change leaves an audit row.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, TextClause, text

from delivery.alerts import Alert
from delivery.rollout import NEUTRAL_CODES, Figures, Standing
from ledger.alerts import keep
from ledger.database import statement, transaction

# Its alert stands as long as the rollout is back; see `ledger.alerts`.
ALERT = "rollback"
_AT_ONCE = 5000

_ALL = text("""
    SELECT name, actor, reason, at, extract(epoch FROM now() - at)::float8 AS age_s FROM switches
    WHERE name LIKE 'rollout:%' OR name LIKE 'rollback:%' ORDER BY split_part(name, ':', 2), name
""")
# Changes come one after the other; claims only read.
_ALONE = text("LOCK TABLE switches IN SHARE ROW EXCLUSIVE MODE")
_BEGIN = text("""
    WITH begun AS (
      INSERT INTO switches (name, actor, reason) VALUES ('rollout:' || :account, :actor, :reason)
      ON CONFLICT (name) DO NOTHING RETURNING name
    ), again AS (
      DELETE FROM switches WHERE name = 'rollback:' || :account
    ), calm AS (
      DELETE FROM alerts WHERE account = :account AND code = :code AND EXISTS (SELECT FROM begun)
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'rollout_begun', :account, :reason FROM begun
    RETURNING id
""")
_FINISH = text("""
    WITH over AS (
      DELETE FROM switches WHERE name IN ('rollout:' || :account, 'rollback:' || :account) RETURNING name
    ), calm AS (
      DELETE FROM alerts WHERE account = :account AND code = :code AND EXISTS (SELECT FROM over)
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'rollout_finished', :account, :reason FROM over
    RETURNING id
""")
# Compare-and-set on the instant it began: another one that began meanwhile is left alone.
_COMPLETE = text("""
    WITH over AS (
      DELETE FROM switches WHERE name = 'rollout:' || :account AND at = :since RETURNING name
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'rollout_completed', :account, :reason FROM over
    RETURNING id
""")
_BACK = text("""
    WITH over AS (
      DELETE FROM switches
      WHERE name = 'rollout:' || :account AND at = coalesce(CAST(:since AS timestamptz), at) RETURNING name
    ), back AS (
      INSERT INTO switches (name, actor, reason) SELECT 'rollback:' || :account, :actor, :reason FROM over
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'rolled_back', :account, :reason FROM over
    RETURNING id
""")
# What a rollout holds back was never tried; what is back is not even looked at. Neither may end because of it.
_GIVE_TIME = text("""
    WITH late AS (
      SELECT d.id FROM switches s JOIN deliveries d ON s.name IN ('rollout:' || d.account, 'rollback:' || d.account)
      WHERE d.state IN ('ready', 'waiting') AND d.expires_at <= now() + interval '30 minutes'
        AND (s.name LIKE 'rollback:%' OR d.code = 'rollout')
      LIMIT :most FOR UPDATE OF d SKIP LOCKED
    ), given AS (
      UPDATE deliveries d SET expires_at = now() + greatest(d.lifetime, interval '1 hour')
      FROM late WHERE d.id = late.id RETURNING d.id
    )
    SELECT count(*) FROM given
""")
_FIGURES = text("""
    SELECT count(*) AS calls, count(*) FILTER (WHERE a.outcome <> 'succeeded') AS failures,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY a.duration_ms) AS p95_ms
    FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
    WHERE a.started_at >= now() - :span_s * interval '1 second' AND a.ended_at IS NOT NULL
      AND d.account = :account AND a.code <> ALL(CAST(:neutral AS text[]))
""")


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of all accounts.

    Attributes:
        actor: Who acts, for the audit trail.
    """

    engine: Engine
    actor: str

    def standing(self) -> list[Standing]:
        """Return those under way and those taken back.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        with statement(self.engine) as connection:
            rows = connection.execute(_ALL).all()
        found = []
        for row in rows:
            word, _, account = row.name.partition(":")
            age = timedelta(seconds=row.age_s)
            found.append(Standing(account, word == "rollback", row.at, age, row.actor, row.reason))
        return found

    def begin(self, account: str, *, reason: str) -> bool:
        """Begin with the first share, also after it was taken back; False when one is under way."""
        return self._change(_BEGIN, account, reason)

    def finish(self, account: str, *, reason: str) -> bool:
        """Let everything go from now on; False when there is no rollout."""
        return self._change(_FINISH, account, reason)

    def back(self, account: str, *, reason: str) -> bool:
        """Let nothing go until a person says so; False when no rollout is under way."""
        return self._change(_BACK, account, reason, since=None)

    def complete(self, standing: Standing) -> bool:
        """End a rollout whose last stage is over; False when somebody else did."""
        return self._change(_COMPLETE, standing.account, "every stage is over", since=standing.since)

    def take_back(self, standing: Standing, alert: Alert) -> bool:
        """Take a rollout back and open its alert; False when it was changed meanwhile."""
        with transaction(self.engine) as connection:
            changed = self._changed(connection, _BACK, standing.account, alert.reason, since=standing.since)
            if changed:
                keep(connection, alert, quiet=timedelta())
            return changed

    def give_time(self) -> None:
        """Give what rollouts hold back its whole time again before that runs out, an hour at least."""
        while self._give_time() == _AT_ONCE:
            pass

    def figures(self, account: str, *, span: timedelta) -> Figures:
        """Return how an account's attempts went that began within `span` and have ended.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        values = {"account": account, "span_s": span.total_seconds(), "neutral": list(NEUTRAL_CODES)}
        with statement(self.engine) as connection:
            row = connection.execute(_FIGURES, values).one()
        p95 = None if row.p95_ms is None else timedelta(milliseconds=row.p95_ms)
        return Figures(row.calls, row.failures, p95)

    def _give_time(self) -> int:
        with transaction(self.engine) as connection:
            return connection.scalar(_GIVE_TIME, {"most": _AT_ONCE}) or 0

    def _change(self, change: TextClause, account: str, reason: str, **more: datetime | None) -> bool:
        with transaction(self.engine) as connection:
            return self._changed(connection, change, account, reason, **more)

    def _changed(
        self, connection: Connection, change: TextClause, account: str, reason: str, **more: datetime | None
    ) -> bool:
        connection.execute(_ALONE)
        values = {"account": account, "actor": self.actor, "reason": reason, "code": ALERT} | more
        return connection.scalar(change, values) is not None
