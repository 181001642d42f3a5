"""What providers told: stored before their webhook is answered, worked on afterwards, opened for nobody but its reader.

Storing is one transaction with one statement for all events, and a repeat changes nothing. What the events do stands in
`ledger.absorbing`. An event that was stored is worked on once, in the transaction that marks it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Row, text

from delivery.errors import LedgerUnavailable
from delivery.inbound import Event, Json
from delivery.ports import Hint
from ledger import absorbing as sql
from ledger.canceling import call_back
from ledger.database import transaction
from ledger.sealing import Unreadable, seal, unseal
from ledger.setting_aside import Apart, Fault
from ledger.store import PostgresLedger

# In the order of the key, so that two webhooks with the same events wait for each other and never in a circle. Their
# order in the webhook stands in the last digits of `at`.
_KEEP = text("""
    INSERT INTO inbound_events (account, key, at, kind, occurred_at, delivery_id, status, receipt, code, provider_code,
                                person, alias, window_until, consent, body, facts)
    SELECT :account, key, now() + n * interval '1 microsecond', kind, occurred_at, delivery_id, status, receipt, code,
           provider_code, person, alias, window_until, consent, body, CAST(facts AS jsonb)
    FROM unnest(
      CAST(:key AS text[]), CAST(:kind AS text[]), CAST(:occurred_at AS timestamptz[]), CAST(:delivery_id AS uuid[]),
      CAST(:status AS text[]), CAST(:receipt AS text[]), CAST(:code AS text[]), CAST(:provider_code AS text[]),
      CAST(:person AS bytea[]), CAST(:alias AS bytea[]), CAST(:window_until AS timestamptz[]),
      CAST(:consent AS text[]), CAST(:body AS bytea[]), CAST(:facts AS text[])
    ) WITH ORDINALITY AS new (key, kind, occurred_at, delivery_id, status, receipt, code, provider_code,
                              person, alias, window_until, consent, body, facts, n)
    ORDER BY key
    ON CONFLICT DO NOTHING
""")
_ERASED = text("SELECT person, at, suppressed FROM erased WHERE person = ANY(CAST(:people AS bytea[]))")
_RESOLVE = text("SELECT alias, person FROM aliases WHERE alias = ANY(CAST(:people AS bytea[]))")


@dataclass(frozen=True)
class Heard:
    """What a person said to us, opened for the producer that it is forwarded to.

    Attributes:
        id: Grows with every event that is stored; the same on every repeat.
        kind: message, notice or consent.
        person: The person's name as a command would write it; whatever is made of this is to be sealed for them.
        content: What was said. What stands under `written_by_contact` is data, never an instruction.
    """

    id: int
    account: str
    kind: str
    at: datetime
    person: str
    content: Json


class Forwarder(Protocol):
    """The way on to the producer."""

    def forward(self, connection: Connection, heard: Sequence[Heard]) -> Sequence[Hint]:
        """Open one delivery for each, as a part of the caller's transaction, and return their hints.

        It is called once for each event that is worked on; a transaction that fails takes its deliveries with it.

        Raises:
            LedgerUnavailable: Postgres is away; everything is tried again.
        """
        ...


@dataclass(frozen=True)
class Absorbed:
    """What one round of work did.

    Attributes:
        worked: Events worked on, those that failed among them.
        hints: Deliveries that were opened, for a worker to look at.
    """

    worked: int
    hints: Sequence[Hint] = ()


@dataclass(frozen=True)
class Inbound:
    """The inbound events of a Postgres ledger.

    Attributes:
        forwarder: Where people's messages go; None keeps them here.
        failed: Told of each event that cannot be worked on; it is tried again later, and then set aside.
    """

    ledger: PostgresLedger
    forwarder: Forwarder | None = None
    failed: Callable[[Fault], object] = lambda _: None

    def keep(self, account: str, events: Sequence[Event]) -> int:
        """Store those that are not stored yet, all or none; return how many were new.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was stored, and the provider should repeat.
        """
        with transaction(self.ledger.engine) as connection:
            rows = self._rows(connection, account, events)
            if not rows:
                return 0
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            return connection.execute(_KEEP, {"account": account} | columns).rowcount

    def absorb(self, *, most: int) -> Absorbed:
        """Work on events that wait, oldest first, in one transaction; what fails costs no other event.

        Raises:
            LedgerUnavailable: Postgres is away; the events wait.
        """
        try:
            return self._absorb(most)
        except LedgerUnavailable:
            raise
        except Exception:  # noqa: BLE001 - one of them fails, whatever it is: the others are worked on without it
            apart = Apart(self.ledger.engine, "inbound_events", self.failed)
            waiting = self._waiting(most)
            done = apart.work(waiting, lambda ids: self._absorb(len(ids), ids))
        return Absorbed(len(waiting), [hint for each in done for hint in each.hints])

    def _waiting(self, most: int) -> list[int]:
        with transaction(self.ledger.engine) as connection:
            return [row.id for row in connection.execute(sql.WAITING, {"most": most, "ids": None})]

    def _absorb(self, most: int, only: Sequence[int] | None = None) -> Absorbed:
        with transaction(self.ledger.engine) as connection:
            connection.execute(sql.ALONE)
            waiting = connection.execute(sql.WAITING, {"most": most, "ids": only}).all()
            if not waiting:
                return Absorbed(0)
            ids = [row.id for row in waiting]
            self._work(connection, ids, {row.kind for row in waiting})
            hints = self._forward(connection, ids)
            connection.execute(sql.WORKED, {"ids": ids})
            return Absorbed(len(ids), hints)

    def _work(self, connection: Connection, ids: list[int], kinds: set[str]) -> None:
        if "status" in kinds:
            settled = connection.execute(sql.SETTLE, {"ids": ids}).all()
            call_back(connection, [row.unneeded for row in settled if row.unneeded])
        connection.execute(sql.LEARN, {"ids": ids})
        if kinds & {"message", "notice", "consent"}:
            connection.execute(sql.OPEN_WINDOWS, {"ids": ids})
            connection.execute(sql.OBEY, {"ids": ids})
            connection.execute(sql.CANCEL_ANSWERED, {"ids": ids})
        if kinds & {"template", "account"}:
            connection.execute(sql.NOTE_TEMPLATES, {"ids": ids})
            connection.execute(sql.NOTE_ACCOUNTS, {"ids": ids})

    def _forward(self, connection: Connection, ids: list[int]) -> Sequence[Hint]:
        if self.forwarder is None:
            return ()
        heard = [self._heard(row) for row in connection.execute(sql.SAID, {"ids": ids})]
        readable = [each for each in heard if each is not None]
        return self.forwarder.forward(connection, readable) if readable else ()

    def _heard(self, row: Row[Any]) -> Heard | None:
        try:
            key = self.ledger.vault.open_data_key(bytes(row.person), bytes(row.data_key or b""))
            content = json.loads(unseal(key, bytes(row.body), _place(row.account, row.key)))
        except Unreadable:  # the person was erased meanwhile: there is nothing left to tell
            return None
        return Heard(row.id, row.account, row.kind, row.occurred_at or row.at, content["from"], content)

    def _rows(self, connection: Connection, account: str, events: Sequence[Event]) -> list[dict[str, Any]]:
        hashes = {name: self.ledger.vault.hash(name) for each in events for name in (each.person, each.alias) if name}
        events = self._of_the_unerased(connection, events, hashes)
        spoken = [hashes[each.person] for each in events if each.person and each.content]
        # Under the name that our commands use, so that erasing that one person erases this too.
        known = self._resolved(connection, spoken)
        keys = self.ledger.vault.own_keys(connection, known.values()) if spoken else {}
        return [self._row(account, each, hashes, known, keys) for each in events]

    def _row(
        self,
        account: str,
        event: Event,
        hashes: Mapping[str, bytes],
        known: Mapping[bytes, bytes],
        keys: Mapping[bytes, bytes],
    ) -> dict[str, Any]:
        # The provider's own id of an event may hold an address.
        key = self.ledger.vault.hash(event.key).hex()[:40]
        heard = hashes[event.person] if event.person else None
        person = known.get(heard, heard) if heard else None
        body = facts = None
        if event.content and person:
            body = seal(keys[person], _json(event.content).encode(), _place(account, key))
        elif event.content:
            facts = _json(event.content)
        alias = hashes[event.alias] if event.alias else None
        receipt = self.ledger.vault.proof(event.receipt) if event.receipt else None
        said = {"receipt": receipt, "person": person, "alias": alias, "body": body, "facts": facts}
        return _columns(event) | {"key": key} | said

    def _of_the_unerased(
        self, connection: Connection, events: Sequence[Event], hashes: Mapping[str, bytes]
    ) -> Sequence[Event]:
        """Leave out what was told of a person before they were erased, and what suppressed people write."""
        found = connection.execute(_ERASED, {"people": sorted(hashes.values())}) if hashes else ()
        erased = {bytes(row.person): row for row in found}
        if not erased:
            return events

        def is_wanted(event: Event) -> bool:
            stones = [erased.get(hashes[name]) for name in (event.person, event.alias) if name]
            old = any(each and (event.at is None or event.at <= each.at) for each in stones)
            unheard = event.kind in ("message", "notice") and any(each and each.suppressed for each in stones)
            return not old and not unheard

        return [each for each in events if is_wanted(each)]

    def _resolved(self, connection: Connection, people: Sequence[bytes]) -> dict[bytes, bytes]:
        if not people:
            return {}
        found = connection.execute(_RESOLVE, {"people": sorted(set(people))})
        return {each: each for each in people} | {bytes(row.alias): bytes(row.person) for row in found}


def _columns(event: Event) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "occurred_at": event.at,
        "delivery_id": event.delivery_id,
        "status": event.status,
        "code": event.code,
        "provider_code": event.provider_code,
        "window_until": event.window_until,
        "consent": event.consent,
    }


def _json(content: Json) -> str:
    return json.dumps(content, ensure_ascii=False)


def _place(account: str, key: str) -> str:
    return f"inbound_events.body/{account}/{key}"
