"""Open alerts in Postgres: one for each account and code, told once for the whole cluster in a while."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from delivery.alerts import Alert
from ledger.database import transaction

# An alert that nobody repeated for so long is over, unless its account is held, its producer frozen or its rollout
# taken back: then it waits for a person.
_OVER_AFTER = timedelta(hours=1)
_LONGEST_REASON = 500

_RAISE = text("""
    INSERT INTO alerts AS a (account, code, severity, reason, next_step)
    VALUES (:account, :code, :severity, :reason, :next_step)
    ON CONFLICT (account, code) DO UPDATE
       SET severity = excluded.severity, reason = excluded.reason, next_step = excluded.next_step, last_at = now(),
           first_at = CASE WHEN a.last_at < now() - :over_s * interval '1 second' THEN now() ELSE a.first_at END
     WHERE a.last_at <= now() - :quiet_s * interval '1 second'
    RETURNING account
""")
# Without callbacks: an operator cannot repair a producer's host. `entrega callbacks list` shows those.
_DIED = text("""
    SELECT account, coalesce(code, 'unknown') AS code, count(*) AS n FROM deliveries
    WHERE state = 'dead' AND settled_at > now() - :within_s * interval '1 second' AND kind <> 'callback'
    GROUP BY 1, 2 ORDER BY 1, 2
""")
_END = text("DELETE FROM alerts WHERE account = :account AND code = :code")
_OPEN = text("""
    SELECT a.account, a.code, a.severity, a.reason, a.next_step, a.first_at, a.last_at
    FROM alerts a LEFT JOIN accounts h ON h.name = a.account AND h.held_code = a.code
      LEFT JOIN producers p ON 'producer:' || p.name = a.account AND p.frozen_at IS NOT NULL
      LEFT JOIN switches s ON s.name = a.code || ':' || a.account
    WHERE h.name IS NOT NULL OR p.name IS NOT NULL OR s.name IS NOT NULL
       OR a.last_at > now() - :over_s * interval '1 second'
    ORDER BY a.severity, a.first_at
""")


@dataclass(frozen=True)
class OpenAlert:
    """An alert that still stands.

    Attributes:
        first_at: When it was first told.
        last_at: When it was last told.
    """

    account: str
    code: str
    severity: str
    reason: str
    next_step: str
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True)
class Died:
    """Deliveries of one account that became dead letters for one reason."""

    account: str
    code: str
    n: int


@dataclass(frozen=True)
class Alerts:
    """What operators were told. `ledger.operating.Desk.resume` ends the alerts of an account."""

    engine: Engine

    def record(self, alert: Alert, *, quiet: timedelta) -> bool:
        """Keep an alert as open; False when somebody told the same within `quiet`.

        Raises:
            LedgerUnavailable: Nobody knows whether it was told.
        """
        with transaction(self.engine) as connection:
            return keep(connection, alert, quiet=quiet)

    def died(self, *, within: timedelta) -> list[Died]:
        """Return what became a dead letter lately, by account and code; callbacks excepted."""
        with transaction(self.engine) as connection:
            return [Died(*row) for row in connection.execute(_DIED, {"within_s": within.total_seconds()})]

    def end(self, account: str, code: str) -> None:
        """Forget an alert whose cause is over.

        Raises:
            LedgerUnavailable: It stands for up to an hour more.
        """
        with transaction(self.engine) as connection:
            connection.execute(_END, {"account": account, "code": code})

    def open(self) -> list[OpenAlert]:
        """Return what still stands, most urgent first."""
        with transaction(self.engine) as connection:
            rows = connection.execute(_OPEN, {"over_s": _OVER_AFTER.total_seconds()})
            return [OpenAlert(*row) for row in rows]


def keep(connection: Connection, alert: Alert, *, quiet: timedelta) -> bool:
    """Keep an alert as open, as a part of the caller's transaction; see `Alerts.record`."""
    values = {
        "account": alert.account,
        "code": alert.code,
        "severity": alert.severity,
        "reason": alert.reason[:_LONGEST_REASON],
        "next_step": alert.next_step,
        "quiet_s": quiet.total_seconds(),
        "over_s": _OVER_AFTER.total_seconds(),
    }
    return connection.scalar(_RAISE, values) is not None
