"""Erase: what the ledger knows of a person goes, and the books stay balanced.

Gone are payloads, the data key (so that copies and backups of payloads cannot be opened), the masked recipient, the
keyed hashes, the provider's own ids, which may hold a number, what the person wrote, and their places on allow-lists.
A person goes under every name that providers taught us. What stays is that so many deliveries there were, and how they
ended; and, as keyed hashes, the wish for no marketing, because forgetting it would break it. Not in reach: addresses
beside the first one of an e-mail to somebody else, and keys that producers chose, which are kept as long as repeats
must be recognised.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from ledger.absorbing import ALONE as NOBODY_ABSORBS
from ledger.database import transaction
from ledger.models import OPEN_STATES
from ledger.order import CANCELABLE
from ledger.vault import Vault

_OPEN = ", ".join(f"'{each}'" for each in OPEN_STATES)
_NAMES = text("""
    WITH given AS (
      SELECT unnest(CAST(:people AS bytea[])) AS person
    ), main AS (
      SELECT person FROM given UNION SELECT a.person FROM aliases a JOIN given g ON a.alias = g.person
    )
    SELECT person FROM main UNION SELECT a.alias FROM aliases a JOIN main m ON a.person = m.person
""")
# Reads all events, so it comes before anybody has to wait. Each name keeps the wish that was told under another one.
_FORGET_EVENTS = text("""
    WITH wish AS (
      SELECT stopped, at FROM opt_outs WHERE person = ANY(CAST(:people AS bytea[])) ORDER BY at DESC LIMIT 1
    ), kept AS (
      INSERT INTO opt_outs AS o (person, stopped, at)
      SELECT person, stopped, at FROM wish CROSS JOIN unnest(CAST(:people AS bytea[])) AS person ORDER BY person
      ON CONFLICT (person) DO UPDATE SET stopped = excluded.stopped, at = excluded.at WHERE o.at < excluded.at
    )
    DELETE FROM inbound_events
     WHERE person = ANY(CAST(:people AS bytea[])) OR alias = ANY(CAST(:people AS bytea[]))
""")
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
             recipient = 'erased', person = '', content = NULL, order_key = NULL
      FROM found f WHERE d.id = f.id AND f.state <> 'attempting'
      RETURNING d.id, d.state, f.open
    ), events AS (
      DELETE FROM inbound_events WHERE delivery_id IN (SELECT id FROM erased)
    ), bodies AS (
      DELETE FROM payloads WHERE delivery_id IN (SELECT id FROM found)
    ), keys AS (
      DELETE FROM people WHERE person = ANY(CAST(:people AS bytea[]))
    ), names AS (
      DELETE FROM aliases WHERE person = ANY(CAST(:people AS bytea[])) OR alias = ANY(CAST(:people AS bytea[]))
    ), times AS (
      DELETE FROM windows WHERE person = ANY(CAST(:people AS bytea[]))
    ), lists AS (
      UPDATE producers SET allowed = ARRAY(
        SELECT each FROM unnest(allowed) AS each WHERE each <> ALL(CAST(:marks AS text[])) ORDER BY each)
       WHERE allowed && CAST(:marks AS text[])
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
            return int(connection.scalar(_COUNT, {"people": self._names(connection, recipients)}) or 0)

    def erase(self, recipients: Collection[str], *, reason: str) -> Erased:
        """Erase these people; again is safe.

        Args:
            reason: Why, for the audit trail; it must not name the person.

        Raises:
            LedgerUnavailable: Postgres is away or too busy; nothing but events may be gone.
        """
        with transaction(self.vault.engine) as connection:
            connection.execute(_FORGET_EVENTS, {"people": self._names(connection, recipients)})
        with transaction(self.vault.engine) as connection:
            connection.execute(NOBODY_ABSORBS)
            connection.execute(_ALONE)
            people = self._names(connection, recipients)
            values = {"people": people, "marks": [each.hex() for each in people]}
            done = connection.execute(_ERASE, values | {"actor": self.actor, "reason": reason}).one()
        return Erased(done.erased, tuple(done.canceled or ()), done.dead, done.under_way)

    def _names(self, connection: Connection, recipients: Collection[str]) -> list[bytes]:
        """Return the keyed hashes of every name these people are known by."""
        given = [self.vault.hash(each) for each in recipients]
        return sorted(bytes(each) for each in connection.scalars(_NAMES, {"people": given}))
