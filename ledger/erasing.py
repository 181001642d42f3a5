"""Erase: what the ledger knows of a person goes, and the books stay balanced.

Gone are payloads, the data key (so that copies and backups of payloads cannot be opened), the masked recipient, the
keyed hash and the provider's own ids, which may hold a number. What stays is that so many deliveries there were, and
how they ended. Not in reach: addresses beside the first one of an e-mail to somebody else, and keys that producers
chose, which are kept as long as repeats must be recognised.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from ledger.database import transaction
from ledger.models import OPEN_STATES
from ledger.order import CANCELABLE
from ledger.vault import Vault

_OPEN = ", ".join(f"'{each}'" for each in OPEN_STATES)
_COUNT = text("SELECT count(*) FROM deliveries WHERE person = ANY(CAST(:people AS bytea[]))")
# Who opens or claims a delivery reads this table, and waits here for the few milliseconds that an erasure takes: else a
# command accepted at the same moment would stay behind, under a key that is gone.
_ALONE = text("LOCK TABLE people IN ACCESS EXCLUSIVE MODE")
# What is being sent right now keeps its name until it has ended, so that the next erasure finds it.
_ERASE = text(f"""
    WITH found AS (
      SELECT d.id, d.state, d.state IN ({_OPEN}) AS open, {CANCELABLE} AS surely_not
      FROM deliveries d WHERE d.person = ANY(CAST(:people AS bytea[])) ORDER BY d.id FOR UPDATE
    ), erased AS (
      UPDATE deliveries d
         SET state = CASE WHEN NOT f.open THEN d.state WHEN f.surely_not THEN 'canceled' ELSE 'dead' END,
             code = CASE WHEN f.open THEN 'erased' ELSE d.code END,
             reason = CASE WHEN NOT f.open THEN d.reason WHEN f.surely_not THEN 'the person was erased'
                           ELSE 'the person was erased; an earlier attempt may have been carried out' END,
             settled_at = CASE WHEN f.open THEN now() ELSE d.settled_at END,
             fallback = CASE WHEN d.fallback = 1 THEN 0 ELSE d.fallback END,
             receipt = CASE WHEN d.attempts > 0 OR d.receipt IS NOT NULL THEN 'erased' END,
             recipient = 'erased', person = ''
      FROM found f WHERE d.id = f.id AND f.state <> 'attempting'
      RETURNING d.id, d.state, f.open
    ), events AS (
      DELETE FROM inbound_events WHERE delivery_id IN (SELECT id FROM erased)
    ), bodies AS (
      DELETE FROM payloads WHERE delivery_id IN (SELECT id FROM found)
    ), keys AS (
      DELETE FROM people WHERE person = ANY(CAST(:people AS bytea[]))
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'erased', id, :reason FROM erased
    ), signed AS (
      INSERT INTO audit (actor, action, reason) VALUES (:actor, 'erased a person', :reason)
    )
    SELECT (SELECT count(*) FROM erased) AS erased,
           (SELECT array_agg(id) FROM erased WHERE open AND state = 'canceled') AS canceled,
           (SELECT count(*) FROM erased WHERE open AND state = 'dead') AS dead,
           (SELECT count(*) FROM found WHERE state = 'attempting') AS under_way
""")  # noqa: S608 - words of our own


@dataclass(frozen=True)
class Erased:
    """What an erasure did.

    Attributes:
        deliveries: How many lost the person.
        canceled: Those of them that were waiting, and surely had no effect.
        dead: How many of them were open and may have had an effect; the provider may know the person.
        under_way: How many are being sent right now; erase again in a minute.
    """

    deliveries: int
    canceled: tuple[UUID, ...]
    dead: int
    under_way: int


@dataclass(frozen=True)
class Eraser:
    """Erases people.

    Attributes:
        actor: Who acts, for the audit trail.
    """

    vault: Vault
    actor: str

    def count(self, recipients: Collection[str]) -> int:
        """Return how many deliveries there are for these people; see `delivery.commands.recipient_of`."""
        with transaction(self.vault.engine) as connection:
            return int(connection.scalar(_COUNT, self._people(recipients)) or 0)

    def erase(self, recipients: Collection[str], *, reason: str) -> Erased:
        """Erase these people; again is safe.

        Args:
            reason: Why, for the audit trail; it must not name the person.

        Raises:
            LedgerUnavailable: Postgres is away or too busy; nothing was changed.
        """
        values = self._people(recipients) | {"actor": self.actor, "reason": reason}
        with transaction(self.vault.engine) as connection:
            connection.execute(_ALONE)
            done = connection.execute(_ERASE, values).one()
        return Erased(done.erased, tuple(done.canceled or ()), done.dead, done.under_way)

    def _people(self, recipients: Collection[str]) -> dict[str, list[bytes]]:
        return {"people": [self.vault.hash(each) for each in recipients]}
