"""What people and audits read from the ledger. Never opens a payload: recipients come masked."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import JsonValue, TypeAdapter
from sqlalchemy import Engine, Row, func, select, text

from delivery.instants import EARLIEST, LATEST
from ledger.database import statement, transaction
from ledger.models import OPEN_STATES, PRIORITIES, STATES, accounts, attempts, deliveries, ticks
from ledger.record_models import purged

# What the purge removed counts as it ended, and as accepted.
# A second send is right where the provider told afterwards that the first did not arrive.
_ORPHANS = text("""
    SELECT
      (SELECT count(*) FROM audit WHERE action = 'accepted')
        + (SELECT coalesce(sum(n), 0) FROM purged WHERE what = 'accepted')::bigint AS accepted,
      (SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT FROM audit a
         WHERE a.delivery_id = d.id AND a.action = 'accepted')) AS unaccepted,
      (SELECT count(*) FROM audit a WHERE a.action = 'accepted' AND NOT EXISTS (SELECT FROM deliveries d
         WHERE d.id = a.delivery_id))
        - (SELECT coalesce(sum(CASE what WHEN 'accepted' THEN -n ELSE n END), 0) FROM purged)::bigint AS vanished,
      (SELECT count(*) FROM deliveries WHERE state = 'attempting' AND lease_until < now() - interval '60 seconds')
         AS stranded,
      (SELECT count(*) FROM deliveries WHERE state = 'succeeded' AND receipt IS NULL) AS without_receipt,
      (SELECT count(*) FROM attempts a JOIN deliveries d ON d.id = a.delivery_id
         WHERE a.ended_at IS NULL AND d.state <> 'attempting') AS unended,
      (SELECT count(*) FROM (SELECT a.delivery_id FROM attempts a WHERE a.outcome = 'succeeded'
         GROUP BY a.delivery_id HAVING count(*) > 1 + (SELECT count(*) FROM audit u
           WHERE u.delivery_id = a.delivery_id AND u.action = 'failed' AND u.at >= min(a.started_at))) twice)
         AS succeeded_twice
""")
# Bounded: with a million due rows the exact number is of no interest.
_DUE = text("""
    SELECT split_part(account, ':', 1) AS service, count(*) AS n FROM (
      SELECT account FROM deliveries WHERE state IN ('ready', 'waiting') AND next_at <= now() LIMIT :most
    ) due GROUP BY 1
""")
_OLDEST_DUE = text("""
    SELECT extract(epoch FROM now() - min(next_at))::float8 FROM deliveries
    WHERE state IN ('ready', 'waiting') AND next_at <= now()
""")


@dataclass(frozen=True)
class Attempt:
    """One line of a delivery's timeline; times in UTC, `wait_s` seconds until the next attempt."""

    n: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    code: str | None
    http_status: int | None
    provider_code: str | None
    duration_ms: int | None
    wait_s: int | None
    worker: str


# Each part is found by a partial index, so that the settled ones cost nothing; the size of a payload is read, not it.
_HOLDINGS = text("""
    WITH open AS (
      SELECT id, producer FROM deliveries WHERE state IN ('ready', 'waiting') AND kind <> 'callback'
      UNION ALL
      SELECT id, producer FROM deliveries WHERE state = 'held' AND kind <> 'callback'
      UNION ALL
      SELECT id, producer FROM deliveries WHERE state = 'uncertain' AND kind <> 'callback'
    )
    SELECT o.producer, count(*) AS n, coalesce(sum(octet_length(p.body)), 0)::bigint AS size
    FROM open o LEFT JOIN payloads p ON p.delivery_id = o.id GROUP BY o.producer
""")


@dataclass(frozen=True)
class Holding:
    """What of one producer is open.

    Attributes:
        rows: Deliveries.
        size: Bytes of their payloads.
    """

    rows: int
    size: int


@dataclass(frozen=True)
class Delivery:
    """A delivery as a person may see it.

    Attributes:
        unreadable: Its instants that lie outside the years 2000 to 2099; they are shown as the nearest of those.
    """

    id: UUID
    kind: str
    account: str
    producer: str
    state: str
    progress: str | None
    priority: str
    recipient: str
    attempts: int
    parks: int
    code: str | None
    reason: str | None
    receipt: str | None
    created_at: datetime
    next_at: datetime | None
    expires_at: datetime
    settled_at: datetime | None
    replay_of: UUID | None
    fallback_id: UUID | None
    fallback_of: UUID | None
    environment: str = "sandbox"
    timeline: tuple[Attempt, ...] = ()
    unreadable: tuple[str, ...] = ()


_VIEW = TypeAdapter(Delivery)
_INSTANTS = ("created_at", "next_at", "expires_at", "settled_at")


@dataclass(frozen=True)
class Account:
    """An account's standing: why it is held, what the last probe found, and what the provider told by itself.

    Attributes:
        held_code: The error code when the system held it; None when a person did.
    """

    name: str
    held_reason: str | None
    held_code: str | None
    held_at: datetime | None
    health: str | None
    health_note: str | None
    probed_at: datetime | None
    told: str | None = None
    told_at: datetime | None = None


@dataclass(frozen=True)
class Verdict:
    """The never-lost audit.

    Attributes:
        accepted: Commands accepted, counted from the audit trail and not from the deliveries.
        states: Deliveries in each state.
        faults: What does not add up, as a count for each kind of fault; empty when all is well.
    """

    accepted: int
    states: Mapping[str, int]
    faults: Mapping[str, int]


@dataclass(frozen=True)
class Archive:
    """Reads the ledger for people, audits and metrics."""

    engine: Engine

    def find(self, delivery_id: UUID) -> Delivery | None:
        """Return one delivery with its timeline, or None."""
        with transaction(self.engine) as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == delivery_id)).one_or_none()
            if row is None:
                return None
            lines = select(attempts).where(attempts.c.delivery_id == delivery_id).order_by(attempts.c.n)
            return delivery_of(row, tuple(attempt_of(each) for each in connection.execute(lines)))

    def search(  # noqa: PLR0913 - filters, all by name
        self,
        *,
        states: tuple[str, ...] = (),
        kind: str | None = None,
        account: str | None = None,
        producer: str | None = None,
        before: UUID | None = None,
        most: int = 50,
    ) -> list[Delivery]:
        """Return deliveries, newest first.

        Args:
            states: Only these; every state when empty.
            before: Cursor: only deliveries older than this id.
        """
        query = select(deliveries).order_by(deliveries.c.id.desc()).limit(most)
        if states:
            query = query.where(deliveries.c.state.in_(states))
        if kind:
            query = query.where(deliveries.c.kind == kind)
        if account:
            query = query.where(deliveries.c.account == account)
        if producer:
            query = query.where(deliveries.c.producer == producer)
        if before:
            query = query.where(deliveries.c.id < before)
        with transaction(self.engine) as connection:
            return [delivery_of(row) for row in connection.execute(query)]

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many deliveries there are for each (state, kind)."""
        query = select(deliveries.c.state, deliveries.c.kind, func.count()).group_by(
            deliveries.c.state, deliveries.c.kind
        )
        with transaction(self.engine) as connection:
            return {(state, kind): n for state, kind, n in connection.execute(query)}

    def due(self, most: int) -> dict[str, int]:
        """Return how many deliveries of each service are due, counting `most` in all and no further."""
        with statement(self.engine) as connection:
            return {row.service: row.n for row in connection.execute(_DUE, {"most": most})}

    def holdings(self) -> dict[str, Holding]:
        """Return what of each producer is open: that which waits for its time or for a person included."""
        with statement(self.engine) as connection:
            rows = connection.execute(_HOLDINGS)
            return {row.producer: Holding(row.n, row.size) for row in rows}

    def standings(self, ids: Collection[UUID]) -> dict[UUID, tuple[str, str | None]]:
        """Return state and progress of those deliveries that there are."""
        query = select(deliveries.c.id, deliveries.c.state, deliveries.c.progress).where(deliveries.c.id.in_(ids))
        with statement(self.engine) as connection:
            return {row.id: (row.state, row.progress) for row in connection.execute(query)}

    def elsewhere(self, environment: str) -> dict[str, int]:
        """Return how many open deliveries each environment but this one has; they are never sent from here."""
        query = (
            select(deliveries.c.environment, func.count().label("n"))
            .where(deliveries.c.state.in_(OPEN_STATES), deliveries.c.environment != environment)
            .group_by(deliveries.c.environment)
            .order_by(deliveries.c.environment)
        )
        with transaction(self.engine) as connection:
            return {row.environment: row.n for row in connection.execute(query)}

    def oldest_due(self) -> timedelta:
        """Return for how long the longest-waiting due delivery has been due; zero when none is."""
        with transaction(self.engine) as connection:
            return timedelta(seconds=connection.scalar(_OLDEST_DUE) or 0.0)

    def last_tick(self, name: str) -> datetime | None:
        """Return when a task of beat's last began, or None."""
        with transaction(self.engine) as connection:
            return connection.scalar(select(ticks.c.at).where(ticks.c.name == name))

    def accounts(self) -> list[Account]:
        """Return every account the ledger has heard of."""
        query = select(accounts).order_by(accounts.c.name)
        with transaction(self.engine) as connection:
            rows = connection.execute(query)
            return [
                Account(
                    r.name,
                    r.held_reason,
                    r.held_code,
                    r.held_at,
                    r.health,
                    r.health_note,
                    r.probed_at,
                    r.told,
                    r.told_at,
                )
                for r in rows
            ]

    def verify(self) -> Verdict:
        """Audit the promise: accepted = succeeded + open + dead + canceled + expired, and every row is sound."""
        with transaction(self.engine) as connection:
            facts = dict(connection.execute(_ORPHANS).one()._mapping)  # noqa: SLF001 - SQLAlchemy's public name
            by_state = select(deliveries.c.state, func.count().label("n")).group_by(deliveries.c.state)
            found = Counter({row.state: row.n for row in connection.execute(by_state)})
            found.update({row.what: row.n for row in connection.execute(select(purged))})
        accepted = facts.pop("accepted")
        states = {state: found[state] for state in STATES}
        return Verdict(accepted, states, {name: n for name, n in facts.items() if n})


def delivery_of(row: Row[Any], timeline: tuple[Attempt, ...] = ()) -> Delivery:
    """Turn a row of `deliveries` into what a person may see."""
    instants = {name: getattr(row, name) for name in _INSTANTS}
    return Delivery(
        id=row.id,
        kind=row.kind,
        account=row.account,
        producer=row.producer,
        environment=row.environment,
        state=row.state,
        progress=row.progress,
        priority=PRIORITIES[row.priority],
        recipient=row.recipient,
        attempts=row.attempts,
        parks=row.parks,
        code=row.code,
        reason=row.reason,
        receipt=row.receipt,
        created_at=row.created_at,
        next_at=row.next_at if row.state in OPEN_STATES else None,
        expires_at=row.expires_at,
        settled_at=row.settled_at,
        replay_of=row.replay_of,
        fallback_id=row.fallback_id,
        fallback_of=row.fallback_of,
        timeline=timeline,
        unreadable=tuple(name for name, each in instants.items() if each and not EARLIEST < each < LATEST),
    )


def public_view(found: Delivery) -> dict[str, JsonValue]:
    """Return a delivery as its producer sees it: masked, without payload, and without what is ours alone.

    Shape: {"id": "0193...", "kind": "create_lead", "state": "succeeded", "recipient": "a***@exemplo.com.br",
        "timeline": [{"n": 1, "started_at": "2026-11-22T12:00:00Z", "outcome": "succeeded", ...}], ...}
    """
    return dict(
        _VIEW.dump_python(found, mode="json", exclude={"timeline": {"__all__": {"worker"}}, "unreadable": True})
    )


def attempt_of(row: Row[Any]) -> Attempt:
    """Turn a row of `attempts` into a line of a timeline."""
    return Attempt(
        n=row.n,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        code=row.code,
        http_status=row.http_status,
        provider_code=row.provider_code,
        duration_ms=row.duration_ms,
        wait_s=row.wait_s,
        worker=row.worker,
    )
