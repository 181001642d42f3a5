"""Dead letters and held deliveries: what an operator reads of them and does with them, one action at a time.

Every action is a compare-and-set on the state and leaves an audit row in the same transaction. Bulk replays stand in
`ledger.replays`. Payloads leave this module opened: whoever asks masks them before anybody sees them.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from delivery.errors import DOUBTFUL_CODES, KeyReused
from delivery.ports import Hint, NewDelivery, Opened
from ledger.database import transaction
from ledger.models import PRIORITIES
from ledger.order import AWAITS_APPROVAL
from ledger.reading import Delivery, delivery_of
from ledger.sealing import Unreadable
from ledger.store import PostgresLedger

# A letter's age counts from when it died; a held one, from when it was accepted.
MATCHING = f"""
    d.state IN ('dead', 'held') AND NOT {AWAITS_APPROVAL}
    AND (CAST(:kind AS text) IS NULL OR d.kind = :kind)
    AND (CAST(:account AS text) IS NULL OR d.account = :account)
    AND (CAST(:code AS text) IS NULL OR d.code = :code)
    AND (CAST(:producer AS text) IS NULL OR d.producer = :producer)
    AND (CAST(:older_s AS float8) IS NULL
         OR coalesce(d.settled_at, d.created_at) < now() - :older_s * interval '1 second')
    AND (CAST(:newer_s AS float8) IS NULL
         OR coalesce(d.settled_at, d.created_at) > now() - :newer_s * interval '1 second')
"""
# An earlier send may have been carried out, and the provider did not say that it failed.
_MAY_EXIST = """
    coalesce(d.code = 'unconfirmed', false)
    OR ((d.uncertain_since IS NOT NULL OR d.resent = 1) AND coalesce(d.progress, '') NOT IN ('failed', 'bounced'))
"""

_LIST = text(f"""
    SELECT d.* FROM deliveries d WHERE {MATCHING} AND (CAST(:before AS uuid) IS NULL OR d.id < :before)
    ORDER BY d.id DESC LIMIT :most
""")  # noqa: S608 - put together from constants of this module; values travel as parameters
_SUMMARY = text(f"""
    SELECT d.account, d.code, count(*) AS n, min(coalesce(d.settled_at, d.created_at)) AS oldest_at
    FROM deliveries d WHERE {MATCHING} GROUP BY d.account, d.code ORDER BY n DESC, d.account, d.code
""")  # noqa: S608 - as above
_OPEN = text(f"""
    SELECT d.id, d.kind, d.account, d.producer, d.state, d.person, {_MAY_EXIST} AS may_exist, p.body, k.data_key
    FROM deliveries d LEFT JOIN payloads p ON p.delivery_id = d.id LEFT JOIN people k ON k.person = d.person
    WHERE d.id = :id
""")  # noqa: S608 - as above
_HISTORY = text("SELECT at, actor, action, reason FROM audit WHERE delivery_id = :id ORDER BY id")
_NOTE = text("INSERT INTO audit (actor, action, delivery_id, reason) VALUES (:actor, :action, :id, :reason)")

# A replay starts from fresh budgets and gets its whole time again; the timeline keeps what was tried before. What may
# have arrived becomes uncertain again: it is looked up, and only then sent once more. Doubts of operations that may be
# repeated are kept as budgets of zero, so that their provider looks first as well.
_REPLAY = text(f"""
    WITH wanted AS (
      SELECT id, (place - 1) * :step_s * interval '1 second' AS delay
      FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS wanted (id, place)
    ), picked AS (
      SELECT d.id, now() + w.delay AS due, {_MAY_EXIST} AS may_exist
      FROM deliveries d JOIN wanted w ON w.id = d.id
      WHERE d.state IN ('dead', 'held') AND NOT {AWAITS_APPROVAL}
        AND NOT EXISTS (SELECT FROM deliveries f
                        WHERE f.id = d.fallback_id AND f.state NOT IN ('dead', 'canceled', 'expired'))
      ORDER BY d.id FOR UPDATE OF d
    ), replayed AS (
      UPDATE deliveries d
         SET state = CASE WHEN p.may_exist THEN 'uncertain' WHEN p.due > now() THEN 'waiting' ELSE 'ready' END,
             uncertain_since = CASE WHEN p.may_exist THEN coalesce(d.uncertain_since, now()) END,
             stuck_since = CASE WHEN p.may_exist THEN now() END,
             looked_at = CASE WHEN p.due > now() THEN p.due END,
             hold_uncertain = 0, resent = 0, parks = 0,
             -- what was told of an earlier message says nothing of the one that follows
             progress = CASE WHEN p.may_exist THEN d.progress END, receipt = CASE WHEN p.may_exist THEN d.receipt END,
             tries = (SELECT coalesce(jsonb_object_agg(word, 0), '{{}}')
                        FROM unnest(CAST(:doubtful AS text[])) AS word WHERE d.tries ? word OR d.code = word),
             next_at = p.due, hinted_at = CASE WHEN p.due > now() THEN NULL ELSE now() END, settled_at = NULL,
             expires_at = p.due + d.lifetime, replay = CAST(:replay AS uuid)
      FROM picked p WHERE d.id = p.id AND d.state IN ('dead', 'held')
      RETURNING d.id, d.account, d.kind, d.priority, d.state, d.order_key IS NOT NULL AS in_order
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'replayed', id, :reason FROM replayed
    )
    SELECT id, account, kind, priority, state, in_order FROM replayed ORDER BY priority, id
""")  # noqa: S608 - as above

_CANCEL = text(f"""
    WITH picked AS (
      SELECT d.id FROM deliveries d
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.state IN ('dead', 'held') AND NOT {AWAITS_APPROVAL}
      ORDER BY id FOR UPDATE
    ), canceled AS (
      UPDATE deliveries d SET state = 'canceled', code = :code, reason = :reason, settled_at = now()
      FROM picked p WHERE d.id = p.id AND d.state IN ('dead', 'held')
      RETURNING d.id
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, :code, id, :reason FROM canceled
    )
    SELECT id FROM canceled
""")  # noqa: S608 - a piece of `ledger.order`
_ENVIRONMENT = text("SELECT environment FROM deliveries WHERE id = :id")
_LINK = text("UPDATE deliveries SET replay_of = :old WHERE id = :new AND replay_of IS NULL")


class LetterMoved(RuntimeError):
    """A letter is neither dead nor held any more: somebody else was first. Nothing was written."""


@dataclass(frozen=True)
class LetterFilter:
    """Which letters; None does not narrow.

    Attributes:
        older_than: Dead for longer than this; a held one, accepted longer ago than this.
    """

    kind: str | None = None
    account: str | None = None
    code: str | None = None
    producer: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None

    def values(self) -> dict[str, Any]:
        """Return the parameters of the statements."""
        ages = {"older_s": self.older_than, "newer_s": self.newer_than}
        words = {"kind": self.kind, "account": self.account, "code": self.code, "producer": self.producer}
        return words | {name: age.total_seconds() if age is not None else None for name, age in ages.items()}

    def said(self) -> dict[str, str | float]:
        """Return what narrows, for the record. Shape: {"account": "crm:default", "older_s": 3600.0}."""
        return {name: value for name, value in self.values().items() if value is not None}


@dataclass(frozen=True)
class Pile:
    """How many letters one account has for one code."""

    account: str
    code: str | None
    count: int
    oldest_at: datetime


@dataclass(frozen=True)
class Action:
    """One line of a delivery's audit trail."""

    at: datetime
    actor: str
    action: str
    reason: str | None


@dataclass(frozen=True)
class Letter:
    """An opened letter.

    Attributes:
        stored: The command's fields and options in clear, never to be shown unmasked; None when it cannot be opened.
        closed: Why it cannot be opened, a sentence; None when it was.
        may_exist: An earlier send may have been carried out.
    """

    id: UUID
    kind: str
    account: str
    producer: str
    state: str
    stored: Mapping[str, Any] | None
    closed: str | None
    may_exist: bool


@dataclass(frozen=True)
class Signed:
    """Who acts and why, for the audit trail."""

    actor: str
    reason: str


@dataclass(frozen=True)
class Replayed:
    """What a replay changed.

    Attributes:
        ids: Deliveries that move again.
        hints: Those that a worker may take at once; the sweep hints the others when they are due.
    """

    ids: tuple[UUID, ...]
    hints: tuple[Hint, ...]


@dataclass(frozen=True)
class Letters:
    """The operator's hand on dead letters.

    Attributes:
        actor: Who acts, for the audit trail.
    """

    ledger: PostgresLedger
    actor: str

    def search(self, wanted: LetterFilter, *, before: UUID | None = None, most: int = 20) -> list[Delivery]:
        """Return dead letters and held deliveries, newest first; `before` is the last id of the page before."""
        values = wanted.values() | {"before": before, "most": most}
        with transaction(self.ledger.engine) as connection:
            return [delivery_of(row) for row in connection.execute(_LIST, values)]

    def summary(self, wanted: LetterFilter) -> list[Pile]:
        """Return how many there are for each account and code, largest first."""
        with transaction(self.ledger.engine) as connection:
            rows = connection.execute(_SUMMARY, wanted.values())
            return [Pile(row.account, row.code, row.n, row.oldest_at) for row in rows]

    def view(self, delivery_id: UUID, *, reason: str) -> Letter | None:
        """Open one delivery's payload, and keep on record that it was; None when there is no such delivery."""
        with transaction(self.ledger.engine) as connection:
            row = connection.execute(_OPEN, {"id": delivery_id}).one_or_none()
            if row is None:
                return None
            self._note(connection, "viewed", delivery_id, reason)
        stored, closed = self._opened(row)
        return Letter(row.id, row.kind, row.account, row.producer, row.state, stored, closed, row.may_exist)

    def history(self, delivery_id: UUID) -> list[Action]:
        """Return a delivery's audit trail, oldest first."""
        with transaction(self.ledger.engine) as connection:
            rows = connection.execute(_HISTORY, {"id": delivery_id})
            return [Action(row.at, row.actor, row.action, row.reason) for row in rows]

    def replay(self, ids: Collection[UUID], *, reason: str) -> Replayed:
        """Make dead or held deliveries move again; others are left alone."""
        with transaction(self.ledger.engine) as connection:
            return replay_in(connection, list(ids), Signed(self.actor, reason))

    def discard(self, ids: Collection[UUID], *, reason: str) -> set[UUID]:
        """Give dead or held deliveries up for good; return those that changed."""
        with transaction(self.ledger.engine) as connection:
            return _cancel(connection, ids, actor=self.actor, code="discarded", reason=reason)

    def resubmitting(self, letter: UUID, *, reason: str) -> "Resubmitting":
        """Return a ledger for one intake: what it opens takes this letter's place."""
        ledger = self.ledger
        return Resubmitting(
            ledger.engine,
            ledger.vault,
            letter,
            self.actor,
            reason,
            environment=ledger.environment,
            most_endpoints=ledger.most_endpoints,
        )

    def edit_key(self, letter: UUID, body: Mapping[str, Any]) -> str:
        """Return the idempotency key of one edit: the same edit of the same letter opens one delivery, ever."""
        content = json.dumps(body, sort_keys=True, default=str)
        return f"edit:{letter}:{self.ledger.vault.hash(content).hex()}"

    def _note(self, connection: Connection, action: str, delivery_id: UUID, reason: str) -> None:
        values = {"actor": self.actor, "action": action, "id": delivery_id, "reason": reason}
        connection.execute(_NOTE, values)

    def _opened(self, row: Row[Any]) -> tuple[Mapping[str, Any] | None, str | None]:
        if row.data_key is None:
            return None, "the person was erased, and the payload with them"
        if row.body is None:
            return None, "its payload was kept for as long as ENTREGA_KEEP says, and is gone"
        try:
            return self.ledger.stored(row), None
        except (Unreadable, ValueError):
            return None, "the sealed payload cannot be opened; is a master key missing from ENTREGA_MASTER_KEYS?"


@dataclass(frozen=True)
class Resubmitting(PostgresLedger):
    """A ledger whose `open` also closes the letter that the new delivery replaces, in one transaction.

    Attributes:
        letter: The dead or held delivery that was edited.
        actor: Who edited it.
        reason: Why.
    """

    letter: UUID
    actor: str
    reason: str

    def open(self, new: Sequence[NewDelivery]) -> list[Opened]:
        """Open the edited delivery in the letter's environment, link it to the letter and cancel the letter.

        Raises:
            LetterMoved: The letter is neither dead nor held any more; nothing was written.
            KeyReused: The edit's key stands for another body; nothing was written.
            ProducerRefused: A cap of its producer has no room for it; nothing was written.
            LedgerUnavailable: Postgres is away; nothing was written.
        """
        entries = self._entries(new)
        with transaction(self.engine) as connection:
            # First, so that of two operators the second waits here and then finds the letter gone.
            if not _cancel(connection, [self.letter], actor=self.actor, code="resubmitted", reason=self.reason):
                raise LetterMoved(f"delivery {self.letter} is neither dead nor held any more; nothing was written")
            environment = connection.scalar(_ENVIRONMENT, {"id": self.letter})
            opened = self._open_admitted(
                connection, [replace(each, new=replace(each.new, environment=environment)) for each in entries]
            )
            if not all(each.same_body for each in opened):
                raise KeyReused("this edit's key stands for another body already; nothing was written")
            for each in opened:
                if each.refusal is not None:
                    raise each.refusal
                connection.execute(_LINK, {"old": self.letter, "new": each.id})
                values = {"actor": self.actor, "action": "resubmission", "id": each.id, "reason": self.reason}
                connection.execute(_NOTE, values)
        return opened


def replay_in(
    connection: Connection,
    ids: Sequence[UUID],
    signed: Signed,
    *,
    replay: UUID | None = None,
    step: timedelta = timedelta(),
) -> Replayed:
    """Replay in the caller's transaction.

    Args:
        replay: The bulk replay they belong to from now on.
        step: Time from one delivery's due instant to the next one's, in the order of `ids`.
    """
    values = {"ids": ids, "replay": replay, "step_s": step.total_seconds(), "doubtful": sorted(DOUBTFUL_CODES)}
    rows = connection.execute(_REPLAY, values | asdict(signed)).all()
    hints = tuple(
        Hint(row.id, row.kind, PRIORITIES[row.priority], alone=row.in_order, account=row.account)
        for row in rows
        if row.state == "ready"
    )
    return Replayed(tuple(row.id for row in rows), hints)


def _cancel(connection: Connection, ids: Collection[UUID], *, actor: str, code: str, reason: str) -> set[UUID]:
    values = {"ids": list(ids), "actor": actor, "code": code, "reason": reason}
    return set(connection.execute(_CANCEL, values).scalars())
