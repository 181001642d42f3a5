"""Erase: what the ledger knows of a person goes, and the books stay balanced.

Gone are payloads, the data key (so that copies and backups of payloads cannot be opened), the masked recipient, the
keyed hashes, the provider's own ids, what the person wrote, their places on allow-lists, and the reasons that people
gave. A person goes under every name that providers taught us. What stays is that so many deliveries there were, and how
they ended; and, as keyed hashes, the wish for no marketing, and that the person was erased: what was told of them
before is not stored again, and a restored backup is erased again. Not in reach: addresses beside the first one of an
e-mail to somebody else.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints, TypeAdapter
from sqlalchemy import Connection, text

from delivery.instants import Instant
from ledger.absorbing import ALONE as NOBODY_ABSORBS
from ledger.audit_chain import AuditChain
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
_HAS_NO_TOMBSTONES = text("SELECT to_regclass('erased') IS NULL")
_ERASED = text("SELECT person, at, suppressed FROM erased ORDER BY at, person")
_ALLOW = text("""
    WITH allowed AS (
      UPDATE erased SET suppressed = false WHERE person = ANY(CAST(:people AS bytea[])) AND suppressed RETURNING person
    ), written AS (
      INSERT INTO audit (actor, action, reason) SELECT :actor, 'allowed an erased person', :reason
      WHERE EXISTS (SELECT FROM allowed)
    )
    SELECT person FROM allowed
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
    ), cleared AS (
      UPDATE deliveries d
         SET state = CASE WHEN NOT f.open THEN d.state WHEN f.surely_not THEN 'canceled' ELSE 'dead' END,
             code = CASE WHEN f.open THEN 'erased' ELSE d.code END,
             reason = CASE WHEN NOT f.open THEN NULL WHEN f.surely_not THEN 'the person was erased'
                           ELSE 'the person was erased; an earlier attempt may have been carried out' END,
             settled_at = CASE WHEN f.open THEN now() ELSE d.settled_at END,
             fallback = CASE WHEN d.fallback = 1 THEN 0 ELSE d.fallback END,
             receipt = CASE WHEN d.attempts > 0 OR d.receipt IS NOT NULL THEN 'erased' END,
             recipient = 'erased', person = '', content = NULL, approved = NULL, order_key = NULL
      FROM found f WHERE d.id = f.id AND f.state <> 'attempting'
      RETURNING d.id, d.state, f.open
    ), events AS (
      DELETE FROM inbound_events WHERE delivery_id IN (SELECT id FROM cleared)
    ), told AS (
      UPDATE callback_events SET reason = NULL, receipt = NULL WHERE delivery_id IN (SELECT id FROM cleared)
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
    ), remembered AS (
      INSERT INTO erased AS e (person, at, suppressed)
      SELECT person, CAST(:at AS timestamptz), :suppress FROM unnest(CAST(:people AS bytea[])) AS person ORDER BY person
      ON CONFLICT (person) DO UPDATE
         SET at = greatest(e.at, excluded.at), suppressed = e.suppressed OR excluded.suppressed
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'erased', id, :reason FROM cleared
    ), signed AS (
      INSERT INTO audit (actor, action, reason) VALUES (:actor, 'erased a person', :reason)
    )
    SELECT (SELECT array_agg(id) FROM cleared) AS erased,
           (SELECT array_agg(id) FROM cleared WHERE open AND state = 'canceled') AS canceled,
           (SELECT count(*) FROM cleared WHERE open AND state = 'dead') AS dead,
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

    def __add__(self, other: "Erased") -> "Erased":
        """Return both together."""
        return Erased(
            self.deliveries + other.deliveries,
            self.canceled + other.canceled,
            self.dead + other.dead,
            self.under_way + other.under_way,
        )


@dataclass(frozen=True)
class Tombstone:
    """Who was erased, by keyed hash, and when; kept apart from the backups, so that none of them undoes it.

    Shape: {"person": "5f2c...", "at": "2026-12-01T12:00:00+00:00", "suppressed": false}
    """

    person: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    at: Instant
    suppressed: bool


def tombstone_of(line: str) -> Tombstone:
    """Return the tombstone that a line of JSON holds.

    Raises:
        ValueError: It holds none.
    """
    return _TOMBSTONE.validate_json(line, extra="forbid")


_TOMBSTONE = TypeAdapter(Tombstone)


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
            people = self._names(connection, map(self.vault.hash, recipients))
            return int(connection.scalar(_COUNT, {"people": people}) or 0)

    def erase(self, recipients: Collection[str], *, reason: str, suppress: bool = False) -> Erased:
        """Erase these people; again is safe.

        Args:
            reason: Why, for the audit trail; it must not name the person.
            suppress: Also accept nothing more for them, until `allow`.

        Raises:
            LedgerUnavailable: Postgres is away or too busy; nothing but events may be gone.
        """
        people = [self.vault.hash(each) for each in recipients]
        return self._erase(people, reason=reason, suppress=suppress, at=datetime.now(UTC))

    def allow(self, recipients: Collection[str], *, reason: str) -> int:
        """Accept commands for these people again; return how many of their names were suppressed.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was changed.
        """
        people = [self.vault.hash(each) for each in recipients]
        with transaction(self.vault.engine) as connection:
            values = {"people": people, "actor": self.actor, "reason": reason}
            return len(connection.execute(_ALLOW, values).all())

    def tombstones(self) -> list[Tombstone]:
        """Return who was erased, oldest first; an empty list where the ledger has no tables yet."""
        with transaction(self.vault.engine) as connection:
            if connection.scalar(_HAS_NO_TOMBSTONES):
                return []
            return [Tombstone(bytes(row.person).hex(), row.at, row.suppressed) for row in connection.execute(_ERASED)]

    def replay(self, tombstones: Collection[Tombstone], *, reason: str) -> Erased:
        """Erase again whom this ledger, restored from an older backup, does not know as erased.

        Raises:
            ValueError: A tombstone is none.
            LedgerUnavailable: Postgres is away; run it again.
        """
        known = {each.person: each.at for each in self.tombstones()}
        done = Erased(0, (), 0, 0)
        for each in tombstones:
            if each.person not in known or known[each.person] < each.at:
                person = bytes.fromhex(each.person)
                again = self._erase([person], reason=reason, suppress=each.suppressed, at=each.at)
                done = done + again
        return done

    def _erase(self, people: Collection[bytes], *, reason: str, suppress: bool, at: datetime) -> Erased:
        with transaction(self.vault.engine) as connection:
            connection.execute(_FORGET_EVENTS, {"people": self._names(connection, people)})
        with transaction(self.vault.engine) as connection:
            connection.execute(NOBODY_ABSORBS)
            connection.execute(_ALONE)
            names = self._names(connection, people)
            values = {"people": names, "marks": [each.hex() for each in names], "at": at, "suppress": suppress}
            done = connection.execute(_ERASE, values | {"actor": self.actor, "reason": reason}).one()
            AuditChain(self.vault).forget_reasons(connection, done.erased or ())
        return Erased(len(done.erased or ()), tuple(done.canceled or ()), done.dead, done.under_way)

    def _names(self, connection: Connection, people: Iterable[bytes]) -> list[bytes]:
        """Return the keyed hashes of every name these people are known by."""
        return sorted(bytes(each) for each in connection.scalars(_NAMES, {"people": list(people)}))
