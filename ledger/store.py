"""The Postgres ledger: the operations the engine and the intake need, many rows at a time."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, Row

from delivery.commands import KINDS, Command
from delivery.errors import DOUBTFUL_CODES
from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded
from delivery.ports import Claimed, Hint, NewDelivery, Opened, Order, Settlement, Swept
from ledger import statements as sql
from ledger.canceling import call_back
from ledger.database import statement, transaction
from ledger.models import PRIORITIES
from ledger.order_hints import due_in_order
from ledger.sealing import Unreadable, seal, unseal
from ledger.vault import Vault

# Waits up to here are also carried by a Celery retry; longer ones live in Postgres alone.
SHORT_WAIT = timedelta(seconds=30)
_LONGEST_REASON = 500

_Key = tuple[str, str]


@dataclass(frozen=True)
class _Entry:
    """One new delivery with its hashed keys."""

    new: NewDelivery
    keys: Mapping[_Key, tuple[bytes, timedelta]]


@dataclass(frozen=True)
class PostgresLedger:
    """The truth, in Postgres."""

    engine: Engine
    vault: Vault

    def open(self, new: Sequence[NewDelivery]) -> list[Opened]:
        """See `delivery.ports.Ledger.open`.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was written.
        """
        entries = [self._entry(each) for each in new]
        with transaction(self.engine) as connection:
            return self._open(connection, entries)

    def open_within(self, connection: Connection, new: NewDelivery) -> Opened:
        """Open one delivery as a part of the caller's transaction; see `open`."""
        return self._open(connection, [self._entry(new)])[0]

    def claim(self, ids: Collection[UUID], *, worker: str, leases: Mapping[str, timedelta]) -> list[Claimed]:
        """See `delivery.ports.Ledger.claim`. A payload that cannot be opened is dead at once.

        Raises:
            LedgerUnavailable: Postgres is away; nothing was claimed.
        """
        values = {
            "ids": list(ids),
            "worker": worker,
            "kinds": list(leases),
            "leases": [each.total_seconds() for each in leases.values()],
        }
        with statement(self.engine) as connection:
            rows = connection.execute(sql.CLAIM, values).all()
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
        return Swept(
            freed=freed.get("waiting", 0),
            uncertain=freed.get("uncertain", 0),
            dead=freed.get("dead", 0) + ended.get("dead", 0),
            expired=ended.get("expired", 0),
        )

    def due(self, *, stale: timedelta, most: int) -> list[Hint]:
        """See `delivery.ports.Ledger.due`."""
        with transaction(self.engine) as connection:
            # Half for those with an order key, at most, so that neither sort keeps the other waiting.
            keyed = due_in_order(connection, stale=stale, most=max(1, most // 2))
            values = {"stale_s": stale.total_seconds(), "most": most - len(keyed)}
            return _hints([*keyed, *connection.execute(sql.DUE, values)])

    def drain(self, *, most: int) -> list[Hint]:
        """See `delivery.ports.Ledger.drain`."""
        with transaction(self.engine) as connection:
            return _hints(connection.execute(sql.DRAIN, {"most": most}).all())

    def _open(self, connection: Connection, entries: Sequence[_Entry]) -> list[Opened]:
        firsts, repeats = _split_repeats(entries)
        standing = self._keep_keys(connection, firsts)
        fresh = [each for each in firsts if each.new.id not in standing]
        opened = self._insert(connection, fresh) | standing
        for repeat, (first, same_body) in repeats.items():
            opened[repeat] = _repeat_of(opened[first.id], same_body=same_body)
        return [opened[each.new.id] for each in entries]

    def _entry(self, new: NewDelivery) -> _Entry:
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
        return _Entry(new, keys)

    def _keep_keys(self, connection: Connection, entries: Sequence[_Entry]) -> dict[UUID, Opened]:
        """Take the keys; return, for each delivery that lost one, the earlier delivery that stands for it."""
        wanted = [
            (key, body_hash, kept, each.new.id) for each in entries for key, (body_hash, kept) in each.keys.items()
        ]
        values = {
            "producers": [key[0] for key, *_ in wanted],
            "keys": [key[1] for key, *_ in wanted],
            "hashes": [body_hash for _, body_hash, *_ in wanted],
            "kept": [kept.total_seconds() for *_, kept, _ in wanted],
            "ids": [id_ for *_, id_ in wanted],
        }
        won = {(row.producer, row.key) for row in connection.execute(sql.KEEP_KEYS, values)}
        lost = [key for key, *_ in wanted if key not in won]
        if not lost:
            return {}
        earlier = _find_keys(connection, lost)
        standing = {}
        for each in entries:
            taken = next((key for key in each.keys if key in earlier), None)
            if taken is not None:
                standing[each.new.id] = _standing(earlier[taken], each.keys[taken][0], taken)
        _point_keys(
            connection,
            {
                key: standing[each.new.id].id
                for each in entries
                if each.new.id in standing
                for key in each.keys
                if key in won
            },
        )
        return standing

    def _insert(self, connection: Connection, entries: Sequence[_Entry]) -> dict[UUID, Opened]:
        if not entries:
            return {}
        people = {each.new.id: self.vault.hash(each.new.command.recipient) for each in entries}
        data_keys = self.vault.data_keys(connection, people.values())
        rows = [
            _new_row(each.new, people[each.new.id], data_keys[people[each.new.id]], self._order_key(each.new))
            for each in entries
        ]
        opened = connection.execute(sql.OPEN, _columns(rows))
        return {
            row.id: Opened(row.id, fresh=True, same_body=True, state=row.state, next_at=row.next_at) for row in opened
        }

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
        return Claimed(order, row.producer, row.fence, row.tries, row.parks)

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
        return KINDS[row.kind].model_validate(stored["content"] | {"options": stored["options"]})

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
    marketing: int
    cancel_on_reply: int


def payload_place(delivery_id: UUID) -> str:
    """Return what a sealed payload is bound to."""
    return f"payloads.body/{delivery_id}"


def _new_row(new: NewDelivery, person: bytes, data_key: bytes, order_key: str | None) -> _NewRow:
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
        people=person,
        recipients=new.recipient,
        bodies=seal(data_key, _canonical(body).encode(), payload_place(new.id)),
        order_keys=order_key,
        fallbacks=int(options.fallback is not None),
        marketing=int(new.command.is_marketing),
        cancel_on_reply=int(options.cancel_on_reply),
    )


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


def _split_repeats(entries: Sequence[_Entry]) -> tuple[list[_Entry], dict[UUID, tuple[NewDelivery, bool]]]:
    """Part the entries that share a key with an earlier one of the same batch: one statement cannot take a key twice.

    Returns:
        The first entries, and for each repeat the first it repeats and whether their bodies agree.
    """
    owner: dict[_Key, _Entry] = {}
    firsts, repeats = [], {}
    for each in entries:
        shared = next((key for key in each.keys if key in owner), None)
        if shared is None:
            firsts.append(each)
            owner |= dict.fromkeys(each.keys, each)
        else:
            first = owner[shared]
            repeats[each.new.id] = (first.new, first.keys[shared][0] == each.keys[shared][0])
    return firsts, repeats


def _repeat_of(first: Opened, *, same_body: bool) -> Opened:
    return Opened(first.id, fresh=False, same_body=same_body, state=first.state, next_at=first.next_at)


def _find_keys(connection: Connection, keys: Sequence[_Key]) -> dict[_Key, Row[Any]]:
    values = {"producers": [key[0] for key in keys], "keys": [key[1] for key in keys]}
    return {(row.producer, row.key): row for row in connection.execute(sql.FIND_KEYS, values)}


def _standing(row: Row[Any], body_hash: bytes, key: _Key) -> Opened:
    same = bytes(row.body_hash) == body_hash or not key[1].startswith("key:")
    return Opened(row.id, fresh=False, same_body=same, state=row.state, next_at=row.next_at)


def _point_keys(connection: Connection, targets: Mapping[_Key, UUID]) -> None:
    if targets:
        values = {
            "producers": [key[0] for key in targets],
            "keys": [key[1] for key in targets],
            "ids": list(targets.values()),
        }
        connection.execute(sql.POINT_KEYS, values)


def _hints(rows: Sequence[Row[Any]]) -> list[Hint]:
    ordered = sorted(rows, key=lambda row: (row.priority, row.next_at))
    return [Hint(row.id, row.kind, PRIORITIES[row.priority]) for row in ordered]


def _counts(connection: Connection, statement: Any, values: Mapping[str, Any]) -> dict[str, int]:
    return {row.state: row.n for row in connection.execute(statement, values)}


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
