"""Fallback commands: which deliveries need theirs, and the start of one, once and in one transaction.

What ended without effect has died, or nothing confirmed it until its time ran out, or the provider told that it did not
arrive. A canceled delivery starts nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import text

from delivery.commands import Command
from delivery.ports import NewDelivery, Opened
from ledger.database import transaction
from ledger.order import TIMES
from ledger.store import PostgresLedger

_NEEDED = """d.fallback = 1 AND (d.state IN ('dead', 'expired', 'uncertain') OR d.progress IN ('failed', 'bounced'))
      AND d.state IN ('dead', 'expired', 'uncertain', 'succeeded')
      AND (d.state <> 'uncertain' OR d.expires_at <= now())"""
_FIND = text(f"""
    SELECT d.*, {TIMES}, payloads.body, people.data_key
    FROM deliveries d
    LEFT JOIN payloads ON payloads.delivery_id = d.id LEFT JOIN people ON people.person = d.person
    WHERE {_NEEDED} ORDER BY d.id LIMIT :most
""")  # noqa: S608 - a piece of this module
# An uncertain delivery is concluded here: no resend can follow once its fallback was started.
_MARK = text(f"""
    UPDATE deliveries d
       SET fallback = 2,
           code = CASE d.state WHEN 'uncertain' THEN 'unconfirmed' ELSE d.code END,
           reason = CASE d.state WHEN 'uncertain' THEN 'nothing confirmed it in time' ELSE d.reason END,
           settled_at = coalesce(d.settled_at, now()),
           state = CASE d.state WHEN 'uncertain' THEN 'dead' ELSE d.state END
     WHERE d.id = :first AND {_NEEDED}
    RETURNING d.environment
""")  # noqa: S608 - a piece of this module
_LINK = text("""
    WITH forth AS (
      UPDATE deliveries SET fallback_id = :second WHERE id = :first
    ), back AS (
      UPDATE deliveries SET fallback_of = :first WHERE id = :second
    )
    INSERT INTO audit (actor, action, delivery_id, reason) VALUES ('sweep', 'fallback', :first, :reason)
""")
_REFUSE = text(
    "INSERT INTO audit (actor, action, delivery_id, reason) VALUES ('sweep', 'no_fallback', :first, :reason)"
)


@dataclass(frozen=True)
class Stranded:
    """A delivery whose fallback is needed.

    Attributes:
        command: What it should have carried out; None when its payload was erased.
        approved: A person approved it, and its fallback with it.
    """

    id: UUID
    producer: str
    command: Command | None
    approved: bool


@dataclass(frozen=True)
class Fallbacks:
    """The fallback commands of a Postgres ledger."""

    ledger: PostgresLedger

    def needed(self, *, most: int) -> Iterable[Stranded]:
        """Return deliveries whose fallback is needed and was not started, oldest first."""
        with transaction(self.ledger.engine) as connection:
            rows = connection.execute(_FIND, {"most": most}).all()
        for row in rows:
            claimed = self.ledger.read(row)
            yield Stranded(row.id, row.producer, claimed.order.command if claimed else None, row.approved is not None)

    def start(self, first: UUID, new: NewDelivery) -> Opened | None:
        """Open the fallback of `first`, unless another did or it is no longer needed; return what was opened."""
        with transaction(self.ledger.engine) as connection:
            environment = connection.scalar(_MARK, {"first": first})
            if environment is None:
                return None
            # With an origin, because there is nobody to refuse it to: what the policy forbids is held.
            named = replace(new, key=f"fallback:{first}", origin=f"fallback:{first}", environment=environment)
            second = self.ledger.open_within(connection, [named])[0]
            connection.execute(
                _LINK, {"first": first, "second": second.id, "reason": f"{second.id} was started in its place"}
            )
            return second

    def refuse(self, first: UUID, *, reason: str) -> None:
        """Record that the fallback of `first` can never be started, so that nobody tries again."""
        with transaction(self.ledger.engine) as connection:
            if connection.scalar(_MARK, {"first": first}) is not None:
                connection.execute(_REFUSE, {"first": first, "reason": reason})
