"""The Postgres ledger: the operations the engine and the intake need, many rows at a time."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import to_json
from sqlalchemy import Connection, Engine, Row, TextClause

from delivery.callbacks import Callback
from delivery.commands import KINDS, Command
from delivery.errors import DOUBTFUL_CODES, LedgerUnavailable, ProducerRefused
from delivery.fields import STORED
from delivery.instants import EARLIEST, LATEST
from delivery.ports import Backlog, Claimed, Hint, NewDelivery, Opened, Order, Settlement, Swept
from delivery.producers import HELD_BECAUSE, LOOPING
from delivery.reach import reached
from delivery.texts import alike
from ledger import backlogs, quotas
from ledger import statements as sql
from ledger.canceling import call_back
from ledger.database import fetch, statement, transaction
from ledger.endings import Ending, ending_of, rows_of
from ledger.endpoints import PostgresEndpoints
from ledger.entries import (
    Entry,
    Key,
    Repeat,
    canonical,
    keys_of,
    may_differ,
    new_row,
    payload_place,
    split_repeats,
    wanted_keys,
)
from ledger.sealing import Unreadable, unseal
from ledger.together import Together
from ledger.vault import Vault

# Waits up to here are also carried by a Celery retry; longer ones live in Postgres alone.
SHORT_WAIT = timedelta(seconds=30)
_LONGEST_S = (LATEST - EARLIEST).total_seconds()
_LOOP = {"loop_code": LOOPING, "loop_reason": HELD_BECAUSE[LOOPING]}

# What may stand in a row: what producers ask for, and what we tell them.
_STORED_KINDS: Mapping[str, type[Command]] = {**KINDS, Callback.kind: Callback}


@dataclass(frozen=True)
class PostgresLedger:
    """The truth, in Postgres.

    Attributes:
        environment: What is opened here belongs to it, and nothing of another environment is claimed here.
        most_endpoints: Callback URLs that one producer may have; None: no bound.
    """

    engine: Engine
    vault: Vault
    environment: str = field(default="sandbox", kw_only=True)
    most_endpoints: int | None = field(default=None, kw_only=True)

    @cached_property
    def endpoints(self) -> PostgresEndpoints:
        """Where producers are told of their deliveries."""
        return PostgresEndpoints(self.engine, self.vault)

    def open(self, new: Sequence[NewDelivery]) -> list[Opened]:
        """See `delivery.ports.Ledger.open`. Single ones of several threads are written together.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was promised, and opening the same again is safe.
        """
        return [self._together(new[0])] if len(new) == 1 else self._open_set(new)

    @cached_property
    def _together(self) -> Together[NewDelivery, Opened]:
        return Together(self._open_set)

    def _open_set(self, new: Sequence[NewDelivery]) -> list[Opened]:
        entries = self._entries(new)
        # A delivery that wins one of two keys has to give it back, and caps are counted first: more than one statement.
        single = all(len(each.keys) == 1 and not each.new.policy.counts for each in entries)
        with (statement if single else transaction)(self.engine) as connection:
            return self._open_admitted(connection, entries)

    def _open_admitted(self, connection: Connection, entries: Sequence[Entry]) -> list[Opened]:
        """Count what must be counted, open what may be opened, and answer for all, in order."""
        admitted = quotas.admit(connection, entries)
        if met := {person for each in admitted.entries for person in each.people}:
            self.vault.own_keys(connection, met)  # from now on they are no new people, also those in copy
        made = iter(self._open(connection, admitted.entries))
        ids = [each.new.id for each in entries]
        return [_refused(id_, admitted.refused[id_]) if id_ in admitted.refused else next(made) for id_ in ids]

    def open_within(self, connection: Connection, new: Sequence[NewDelivery]) -> list[Opened]:
        """Open deliveries as a part of the caller's transaction; see `open`."""
        return self._open(connection, self._entries(new))

    def claim(self, ids: Collection[UUID], *, worker: str, leases: Mapping[str, timedelta]) -> list[Claimed]:
        """See `delivery.ports.Ledger.claim`. A payload that cannot be opened is dead at once.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was claimed.
        """
        return self._claim(sql.CLAIM, {"ids": list(ids)}, worker, leases)

    def claim_next(
        self,
        lane: tuple[str, str],
        *,
        most: int,
        worker: str,
        leases: Mapping[str, timedelta],
        first: Collection[UUID] = (),
    ) -> list[Claimed]:
        """See `delivery.ports.Ledger.claim_next`. Raises as `claim`."""
        account, kind = lane
        values = {"account": account, "kind": kind, "most": most, "first": list(first)}
        return self._claim(sql.CLAIM_NEXT, values, worker, leases)

    def _claim(
        self, chosen: TextClause, values: dict[str, object], worker: str, leases: Mapping[str, timedelta]
    ) -> list[Claimed]:
        seconds = {kind: lease.total_seconds() for kind, lease in leases.items()}
        values |= {"worker": worker, "here": self.environment, "leases": to_json(seconds).decode()}
        with statement(self.engine) as connection:
            rows = fetch(connection, chosen, values)
        claimed = [self.read(row) for row in rows]
        self._bury([row for row, each in zip(rows, claimed, strict=True) if each is None])
        return [each for each in claimed if each is not None]

    def settle(self, settlements: Iterable[Settlement]) -> set[UUID]:
        """See `delivery.ports.Ledger.settle`.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was settled, and settling again is safe.
        """
        ended = list(settlements)
        if not ended:
            return set()
        values = rows_of([ending_of(each, self.vault) for each in ended]) | {"short_s": SHORT_WAIT.total_seconds()}
        has_fallback = any(each.claimed.order.command.options.fallback for each in ended)
        with (transaction if has_fallback else statement)(self.engine) as connection:
            changed = fetch(connection, sql.SETTLE, values)
            call_back(connection, [row.unneeded for row in changed if row.unneeded])
            return {row.id for row in changed}

    def sweep(self, *, idempotent: Collection[str], lease_retries: int) -> Swept:
        """See `delivery.ports.Ledger.sweep`."""
        with transaction(self.engine) as connection:
            freed = _counts(connection, sql.FREE_LEASES, {"idempotent": list(idempotent), "retries": lease_retries})
        with transaction(self.engine) as connection:
            ended = _counts(connection, sql.EXPIRE, {})
        with transaction(self.engine) as connection:
            backlogs.shelve(connection, most=1000)
        return Swept(
            freed=freed.get("waiting", 0),
            uncertain=freed.get("uncertain", 0),
            dead=freed.get("dead", 0) + ended.get("dead", 0),
            expired=ended.get("expired", 0),
        )

    def backlogs(self, *, stale: timedelta, most: int) -> list[Backlog]:
        """See `delivery.ports.Ledger.backlogs`."""
        with transaction(self.engine) as connection:
            return backlogs.count(connection, stale=stale, most=most)

    def due(self, backlog: Backlog, *, stale: timedelta, waits: Sequence[timedelta]) -> list[Hint]:
        """See `delivery.ports.Ledger.due`."""
        with transaction(self.engine) as connection:
            return backlogs.take(connection, backlog, stale=stale, waits=waits)

    def _open(self, connection: Connection, entries: Sequence[Entry]) -> list[Opened]:
        firsts, repeats = split_repeats(entries)
        opened: dict[UUID, Opened] = {}
        looping: set[UUID] = set()
        pending = firsts
        while pending:
            made, unsealed, looped = self._insert(connection, pending)
            opened |= made
            looping |= looped
            # Sealed with another key than the person's own: another process met the person first. Rare, and once.
            self.vault.learn(connection, (each.person for each in unsealed))
            pending = unsealed
        opened |= self._standing(connection, [each for each in firsts if each.new.id not in opened], looping)
        quotas.freeze(connection, {each.new.producer for each in firsts if opened[each.new.id].refusal})
        opened |= self._repeated(connection, repeats, opened)
        return [opened[each.new.id] for each in entries]

    def _repeated(
        self, connection: Connection, repeats: Sequence[Repeat], opened: Mapping[UUID, Opened]
    ) -> dict[UUID, Opened]:
        """Answer those that repeat one of their own set; where that one lost its key, by what stands for both."""
        lost = [each.entry for each in repeats if not (first := opened[each.first]).fresh and first.refusal is None]
        answers = self._standing(connection, lost, ())
        return answers | {
            each.entry.new.id: _repeat_of(opened[each.first], same_body=each.same_body)
            for each in repeats
            if each.entry.new.id not in answers
        }

    def _entries(self, new: Sequence[NewDelivery]) -> list[Entry]:
        entries = [self._entry(each) for each in new]
        places = {each.new.id: (each.new.producer, url) for each in entries if (url := each.url)}
        if not places:
            return entries
        found = self.endpoints.register_all(set(places.values()), most=self.most_endpoints)
        return [
            replace(each, endpoint=found.get(places[each.new.id])) if each.new.id in places else each
            for each in entries
        ]

    def _entry(self, new: NewDelivery) -> Entry:
        body = new.command.content()
        options = new.command.options.model_dump(mode="json")
        whole = {"kind": new.command.kind, "account": new.account}
        content, seen = canonical(whole | {"content": body}), alike(body)
        content_hash = self.vault.hash(content if seen == body else canonical(whole | {"content": seen}))
        keys = keys_of(new, self.vault, content, content_hash, options)
        short = int.from_bytes(content_hash[:8], signed=True)
        stored = {"content": body, "options": options}
        people = tuple(map(self.vault.hash, reached(new.command))) if new.policy.counts else ()
        return Entry(new, self.vault.hash(new.command.recipient), stored, keys, short, people=people)

    def _insert(
        self, connection: Connection, entries: Sequence[Entry]
    ) -> tuple[dict[UUID, Opened], list[Entry], set[UUID]]:
        """Open those that win their keys.

        Returns:
            Them, those whose payload was sealed with a wrong data key, and those that the loop guard stopped: not
            opened, or held because their message cannot come back.
        """
        data_keys = self.vault.data_keys(each.person for each in entries)
        earlier: Counter[tuple[bytes, int]] = Counter()
        rows = []
        for each in entries:
            same = (each.person, each.content)
            order_key = self._order_key(each.new)
            rows.append(new_row(each, data_keys[each.person], order_key, earlier[same], environment=self.environment))
            earlier[same] += 1
        wanted = [key for each in entries for key in wanted_keys(each)]
        values = {"rows": to_json(rows).decode(), "wanted": to_json(wanted).decode()} | _LOOP
        found = {row.id: row for row in fetch(connection, sql.OPEN, values)}
        for each in entries:
            if found[each.new.id].is_sealed and data_keys[each.person].is_new:
                self.vault.remember(each.person, data_keys[each.person])
        opened = {id_: _fresh(row) for id_, row in found.items() if row.state is not None}
        unsealed = [each for each in entries if not found[each.new.id].is_sealed]
        return opened, unsealed, {id_ for id_, row in found.items() if row.looped}

    def _standing(
        self, connection: Connection, entries: Sequence[Entry], looping: Collection[UUID]
    ) -> dict[UUID, Opened]:
        """Return, for each delivery that lost a key, the earlier delivery that stands for it."""
        if not entries:
            return {}
        earlier = _find_keys(connection, [key for each in entries for key in each.keys])
        standing = {}
        for each in entries:
            taken = next((key for key in each.keys if key in earlier), None)
            if taken is not None:
                standing[each.new.id] = _standing(earlier[taken], each.keys[taken][0], taken)
            elif each.new.id in looping:
                standing[each.new.id] = _refused(each.new.id, ProducerRefused(LOOPING))
            else:
                raise LedgerUnavailable("the delivery that this command repeats is gone from the ledger; use a new key")
        won = {key: standing[each.new.id].id for each in entries for key in each.keys if key not in earlier}
        _point_keys(connection, won)
        return standing

    def _order_key(self, new: NewDelivery) -> str | None:
        key = new.command.options.order_key
        return None if key is None else self.vault.hash(canonical([new.producer, new.account, key])).hex()

    def read(self, row: Row[Any]) -> Claimed | None:
        """Turn a row with its sealed payload into a claim, or None when the payload cannot be opened."""
        try:
            command = self._unseal(row, approved=row.approved)
        except (Unreadable, ValidationError, ValueError, LookupError, TypeError):
            return None
        doubtful = bool(row.resent or DOUBTFUL_CODES & row.tries.keys())
        order = Order(row.id, row.account, command, row.attempts, row.created_at, doubtful)
        left, late = _span(row.left_s), _span(row.late_s)
        return Claimed(order, row.producer, row.fence, row.tries, row.parks, left, late)

    def stored(self, row: Row[Any]) -> dict[str, Any]:
        """Open the payload of a row that has `id`, `person`, `body` and `data_key`.

        Raises:
            Unreadable: It was erased, or sealed by a key that is gone.

        Shape: {"content": {the command's fields}, "options": {...}}
        """
        if row.body is None or row.data_key is None:
            raise Unreadable("the payload or its key was erased")
        data_key = self.vault.open_data_key(bytes(row.person), bytes(row.data_key))
        return dict(json.loads(unseal(data_key, bytes(row.body), payload_place(row.id))))

    def content_hash(self, kind: str, account: str, stored: Mapping[str, Any]) -> bytes:
        """Return the keyed hash of all that a command asks for, its options and its fallback included."""
        return self.vault.hash(canonical({"kind": kind, "account": account, **stored}))

    def _unseal(self, row: Row[Any], *, approved: bytes | None) -> Command:
        stored = self.stored(row)
        if approved is not None and self.content_hash(row.kind, row.account, stored) != bytes(approved):
            raise Unreadable("it is not what was approved")
        fields = stored["content"] | {"options": stored["options"]}
        return _STORED_KINDS[row.kind].model_validate(fields, context=STORED)

    def _bury(self, rows: Sequence[Row[Any]]) -> None:
        if not rows:
            return
        endings = [
            Ending(
                id=row.id, fence=row.fence, state="dead", outcome="rejected", code="unreadable",
                reason="the sealed payload cannot be opened, or is not what was approved: was it erased, "
                "or is a master key missing?",
            )
            for row in rows
        ]  # fmt: skip
        with transaction(self.engine) as connection:
            connection.execute(sql.SETTLE, rows_of(endings) | {"short_s": 0})


def _span(seconds: float) -> timedelta:
    """Return a time; one to or from an instant that no calendar holds is as long as one can be."""
    return timedelta(seconds=max(-_LONGEST_S, min(seconds, _LONGEST_S)))


def _repeat_of(first: Opened, *, same_body: bool) -> Opened:
    return replace(first, fresh=False, same_body=same_body, refusal=None if first.fresh else first.refusal)


def _fresh(row: Any) -> Opened:
    refusal = ProducerRefused(LOOPING) if row.looped else None
    return Opened(row.id, fresh=True, same_body=True, state=row.state, next_at=row.next_at, refusal=refusal)


def _refused(id_: UUID, why: ProducerRefused) -> Opened:
    return Opened(id_, fresh=False, same_body=True, state="", next_at=datetime.max.replace(tzinfo=UTC), refusal=why)


def _find_keys(connection: Connection, keys: Sequence[Key]) -> dict[Key, Row[Any]]:
    values = {"producers": [key[0] for key in keys], "keys": [key[1] for key in keys]}
    return {(row.producer, row.key): row for row in connection.execute(sql.FIND_KEYS, values)}


def _standing(row: Row[Any], body_hash: bytes, key: Key) -> Opened:
    same = bytes(row.body_hash) == body_hash or not may_differ(key)
    return Opened(row.id, fresh=False, same_body=same, state=row.state, next_at=row.next_at)


def _point_keys(connection: Connection, targets: Mapping[Key, UUID]) -> None:
    if targets:
        values = {
            "producers": [key[0] for key in targets],
            "keys": [key[1] for key in targets],
            "ids": list(targets.values()),
        }
        connection.execute(sql.POINT_KEYS, values)


def _counts(connection: Connection, statement: Any, values: Mapping[str, Any]) -> dict[str, int]:
    return {row.state: row.n for row in connection.execute(statement, values)}
