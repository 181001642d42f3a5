"""The Postgres ledger: the operations the engine and the intake need, many rows at a time."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, Row, TextClause

from delivery.callbacks import Callback
from delivery.commands import KINDS, Command
from delivery.errors import DOUBTFUL_CODES, LedgerUnavailable
from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded
from delivery.ports import Backlog, Claimed, Hint, NewDelivery, Opened, Order, Settlement, Swept
from ledger import backlogs
from ledger import statements as sql
from ledger.canceling import call_back
from ledger.database import statement, transaction
from ledger.endpoints import PostgresEndpoints
from ledger.entries import Entry, Key, split_repeats
from ledger.models import PRIORITIES
from ledger.sealing import Unreadable, seal, unseal
from ledger.vault import DataKey, Vault

# Waits up to here are also carried by a Celery retry; longer ones live in Postgres alone.
SHORT_WAIT = timedelta(seconds=30)
_LONGEST_REASON = 500

# What may stand in a row: what producers ask for, and what we tell them.
_STORED_KINDS: Mapping[str, type[Command]] = {**KINDS, Callback.kind: Callback}


@dataclass(frozen=True)
class PostgresLedger:
    """The truth, in Postgres."""

    engine: Engine
    vault: Vault

    @cached_property
    def endpoints(self) -> PostgresEndpoints:
        """Where producers are told of their deliveries."""
        return PostgresEndpoints(self.engine, self.vault)

    def open(self, new: Sequence[NewDelivery]) -> list[Opened]:
        """See `delivery.ports.Ledger.open`.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was promised, and opening the same again is safe.
        """
        entries = [self._entry(each) for each in new]
        # A delivery that wins one of two keys has to give it back: that takes a second statement.
        single = all(len(each.keys) == 1 for each in entries)
        with (statement if single else transaction)(self.engine) as connection:
            return self._open(connection, entries)

    def open_within(self, connection: Connection, new: Sequence[NewDelivery]) -> list[Opened]:
        """Open deliveries as a part of the caller's transaction; see `open`."""
        return self._open(connection, [self._entry(each) for each in new])

    def claim(self, ids: Collection[UUID], *, worker: str, leases: Mapping[str, timedelta]) -> list[Claimed]:
        """See `delivery.ports.Ledger.claim`. A payload that cannot be opened is dead at once.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was claimed.
        """
        return self._claim(sql.CLAIM, {"ids": list(ids)}, worker, leases)

    def claim_next(
        self, account: str, kind: str, *, most: int, worker: str, leases: Mapping[str, timedelta]
    ) -> list[Claimed]:
        """See `delivery.ports.Ledger.claim_next`. Raises as `claim`."""
        return self._claim(sql.CLAIM_NEXT, {"account": account, "kind": kind, "most": most}, worker, leases)

    def _claim(
        self, chosen: TextClause, values: dict[str, object], worker: str, leases: Mapping[str, timedelta]
    ) -> list[Claimed]:
        values |= {
            "worker": worker, "kinds": list(leases), "leases": [each.total_seconds() for each in leases.values()],
        }  # fmt: skip
        with statement(self.engine) as connection:
            rows = connection.execute(chosen, values).all()
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
        columns = _columns([_ending(each) for each in ended])
        has_fallback = any(each.claimed.order.command.options.fallback for each in ended)
        with (transaction if has_fallback else statement)(self.engine) as connection:
            changed = connection.execute(sql.SETTLE, columns | {"short_s": SHORT_WAIT.total_seconds()}).all()
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
        pending = firsts
        while pending:
            made, unsealed = self._insert(connection, pending)
            opened |= made
            # Sealed with another key than the person's own: another process met the person first. Rare, and once.
            self.vault.learn(connection, (each.person for each in unsealed))
            pending = unsealed
        opened |= self._standing(connection, [each for each in firsts if each.new.id not in opened])
        for repeat, (first, same_body) in repeats.items():
            opened[repeat] = _repeat_of(opened[first.id], same_body=same_body)
        return [opened[each.new.id] for each in entries]

    def _entry(self, new: NewDelivery) -> Entry:
        content = _canonical({"kind": new.command.kind, "account": new.account, "content": new.command.content()})
        content_hash = self.vault.hash(content)
        if new.key is not None:
            options = new.command.options.model_dump(mode="json", exclude={"key"})
            body_hash = self.vault.hash(content + _canonical(options))
            keys = {(new.producer, f"key:{new.key}"): (body_hash, new.key_kept)}
        else:
            keys = {(new.producer, f"same:{content_hash.hex()}"): (content_hash, new.same_within)}
        if new.origin is not None:
            keys[(new.producer, f"origin:{new.origin}")] = (content_hash, new.key_kept)
        url = new.command.options.callback_url
        # In a transaction of its own, so that this process may remember it whatever becomes of the delivery.
        endpoint = self.endpoints.register(new.producer, url) if url else None
        return Entry(new, self.vault.hash(new.command.recipient), endpoint, keys)

    def _insert(self, connection: Connection, entries: Sequence[Entry]) -> tuple[dict[UUID, Opened], list[Entry]]:
        """Open those that win their keys; return them, and those whose payload was sealed with a wrong data key."""
        data_keys = self.vault.data_keys(each.person for each in entries)
        rows = [_new_row(each, data_keys[each.person], self._order_key(each.new)) for each in entries]
        found = {row.id: row for row in connection.execute(sql.OPEN, _columns(rows) | _wanted_keys(entries))}
        for each in entries:
            if found[each.new.id].is_sealed and data_keys[each.person].is_new:
                self.vault.remember(each.person, data_keys[each.person])
        opened = {
            id_: Opened(id_, fresh=True, same_body=True, state=row.state, next_at=row.next_at)
            for id_, row in found.items()
            if row.state is not None
        }
        return opened, [each for each in entries if not found[each.new.id].is_sealed]

    def _standing(self, connection: Connection, entries: Sequence[Entry]) -> dict[UUID, Opened]:
        """Return, for each delivery that lost a key, the earlier delivery that stands for it."""
        if not entries:
            return {}
        earlier = _find_keys(connection, [key for each in entries for key in each.keys])
        standing = {}
        for each in entries:
            taken = next((key for key in each.keys if key in earlier), None)
            if taken is None:
                raise LedgerUnavailable("the delivery that this command repeats is gone from the ledger; use a new key")
            standing[each.new.id] = _standing(earlier[taken], each.keys[taken][0], taken)
        won = {key: standing[each.new.id].id for each in entries for key in each.keys if key not in earlier}
        _point_keys(connection, won)
        return standing

    def _order_key(self, new: NewDelivery) -> str | None:
        key = new.command.options.order_key
        return None if key is None else self.vault.hash(_canonical([new.producer, new.account, key])).hex()

    def read(self, row: Row[Any]) -> Claimed | None:
        """Turn a row with its sealed payload into a claim, or None when the payload cannot be opened."""
        try:
            command = self._unseal(row)
        except (Unreadable, ValidationError, ValueError):
            return None
        doubtful = bool(row.resent or DOUBTFUL_CODES & row.tries.keys())
        order = Order(row.id, row.account, command, row.attempts, row.created_at, doubtful)
        left = timedelta(seconds=row.left_s)
        return Claimed(order, row.producer, row.fence, row.tries, row.parks, left)

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

    def _unseal(self, row: Row[Any]) -> Command:
        stored = self.stored(row)
        return _STORED_KINDS[row.kind].model_validate(stored["content"] | {"options": stored["options"]})

    def _bury(self, rows: Sequence[Row[Any]]) -> None:
        if not rows:
            return
        endings = [
            _Ending(
                ids=row.id, fences=row.fence, states="dead", outcomes="rejected", codes="unreadable",
                reasons="the sealed payload cannot be opened: was it erased, or is a master key missing?",
            )
            for row in rows
        ]  # fmt: skip
        with transaction(self.engine) as connection:
            connection.execute(sql.SETTLE, _columns(endings) | {"short_s": 0})


@dataclass(frozen=True)
class _Ending:
    """One settled attempt, as the columns of the SETTLE statement."""

    ids: UUID
    fences: int
    states: str
    outcomes: str
    codes: str
    reasons: str | None = None
    waits: float | None = None
    parked: bool = False
    burned: bool = True
    receipts: str | None = None
    statuses: int | None = None
    provider_codes: str | None = None
    durations: float | None = None
    paced: bool = False


@dataclass(frozen=True)
class _NewRow:
    """One new delivery, as the columns of the OPEN statement."""

    ids: UUID
    kinds: str
    accounts: str
    producers: str
    priorities: int
    send_at: object
    expires_at: object
    expires_in: float
    holds: int
    people: bytes
    recipients: str
    bodies: bytes
    order_keys: str | None
    fallbacks: int
    endpoints: UUID | None
    data_keys: bytes
    data_keys_are_new: bool
    marketing: int
    cancel_on_reply: int


def payload_place(delivery_id: UUID) -> str:
    """Return what a sealed payload is bound to."""
    return f"payloads.body/{delivery_id}"


def _new_row(entry: Entry, data_key: DataKey, order_key: str | None) -> _NewRow:
    new = entry.new
    options = new.command.options
    body = {"content": new.command.content(), "options": options.model_dump(mode="json")}
    return _NewRow(
        ids=new.id,
        kinds=new.command.kind,
        accounts=new.account,
        producers=new.producer,
        priorities=PRIORITIES.index(options.priority),
        send_at=options.send_at,
        expires_at=options.expires_at,
        expires_in=new.expires_in.total_seconds(),
        holds=int(new.hold_uncertain),
        people=entry.person,
        recipients=new.recipient,
        bodies=seal(data_key.key, _canonical(body).encode(), payload_place(new.id)),
        order_keys=order_key,
        fallbacks=int(options.fallback is not None),
        endpoints=entry.endpoint,
        data_keys=data_key.wrapped,
        data_keys_are_new=data_key.is_new,
        marketing=int(new.command.is_marketing),
        cancel_on_reply=int(options.cancel_on_reply),
    )


def _wanted_keys(entries: Sequence[Entry]) -> dict[str, Any]:
    wanted = [(key, value, each.new.id) for each in entries for key, value in each.keys.items()]
    return {
        "key_ids": [id_ for *_, id_ in wanted],
        "key_producers": [producer for (producer, _), *_ in wanted],
        "keys": [key for (_, key), *_ in wanted],
        "key_hashes": [body_hash for _, (body_hash, _), _ in wanted],
        "kept": [kept.total_seconds() for _, (_, kept), _ in wanted],
    }


def _ending(settlement: Settlement) -> _Ending:
    outcome, claimed = settlement.outcome, settlement.claimed
    waits = outcome.wait.total_seconds() if isinstance(outcome, Deferred) else None
    return _Ending(
        ids=claimed.order.delivery_id,
        fences=claimed.fence,
        states=_state(outcome),
        outcomes=type(outcome).__name__.lower(),
        codes=outcome.code,
        reasons=None if isinstance(outcome, Succeeded) else outcome.reason[:_LONGEST_REASON],
        waits=waits,
        parked=isinstance(outcome, Deferred) and outcome.parked,
        burned=not isinstance(outcome, Deferred) or outcome.burned,
        receipts=outcome.receipt.id if isinstance(outcome, Succeeded) else None,
        statuses=settlement.http_status,
        provider_codes=settlement.provider_code,
        durations=settlement.duration.total_seconds() * 1000,
        paced=isinstance(outcome, Deferred) and outcome.paced,
    )


def _state(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return "succeeded"
    if isinstance(outcome, Deferred):
        return "waiting"
    if isinstance(outcome, Rejected):
        return "held" if outcome.held else "dead"
    return "uncertain"


def _columns(rows: Sequence[_Ending] | Sequence[_NewRow]) -> dict[str, Any]:
    return {name: [getattr(row, name) for row in rows] for name in rows[0].__dataclass_fields__}


def _repeat_of(first: Opened, *, same_body: bool) -> Opened:
    return Opened(first.id, fresh=False, same_body=same_body, state=first.state, next_at=first.next_at)


def _find_keys(connection: Connection, keys: Sequence[Key]) -> dict[Key, Row[Any]]:
    values = {"producers": [key[0] for key in keys], "keys": [key[1] for key in keys]}
    return {(row.producer, row.key): row for row in connection.execute(sql.FIND_KEYS, values)}


def _standing(row: Row[Any], body_hash: bytes, key: Key) -> Opened:
    same = bytes(row.body_hash) == body_hash or not key[1].startswith("key:")
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


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
