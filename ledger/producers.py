"""What each producer may do, as operators set it, and its copy in each process, a few seconds old at most."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, text

from delivery.producers import DEFAULT, LoopGuard, ProducerPolicy, Used
from ledger.database import statement, transaction
from ledger.vault import Vault

_FRESH_S = 2.0

_SUPPRESSED = text("SELECT person FROM erased WHERE suppressed")
_ALL = text("SELECT * FROM producers ORDER BY name")
_FIND = text("SELECT * FROM producers WHERE name = :name")
# What is used of the windows stays: who turns a cap up does not hand out a new day.
_SET = text("""
    WITH changed AS (
      INSERT INTO producers AS p (name, per_minute, per_day, new_recipients_per_day, recipients_per_mail, allowed,
                                  senders, needs_approval, most_open, most_open_mb, loop_most, loop_within)
      VALUES (:name, :per_minute, :per_day, :new_recipients_per_day, :recipients_per_mail, CAST(:allowed AS text[]),
              CAST(:senders AS text[]), :needs_approval, :most_open, :most_open_mb, :loop_most, :loop_within)
      ON CONFLICT (name) DO UPDATE
         SET per_minute = excluded.per_minute, per_day = excluded.per_day,
             new_recipients_per_day = excluded.new_recipients_per_day, allowed = excluded.allowed,
             recipients_per_mail = excluded.recipients_per_mail, senders = excluded.senders,
             most_open = excluded.most_open, most_open_mb = excluded.most_open_mb,
             needs_approval = excluded.needs_approval, loop_most = excluded.loop_most,
             loop_within = excluded.loop_within
      RETURNING *
    ), written AS (
      INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'policy', 'producer:' || name, :reason
      FROM changed
    )
    SELECT * FROM changed
""")
_FREEZE = text("""
    WITH changed AS (
      INSERT INTO producers AS p (name, frozen_at, frozen_reason) VALUES (:name, now(), :reason)
      ON CONFLICT (name) DO UPDATE SET frozen_at = coalesce(p.frozen_at, now()), frozen_reason = :reason
      RETURNING *
    ), written AS (
      INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'frozen', 'producer:' || name, :reason
      FROM changed
    )
    SELECT * FROM changed
""")
# The loop guard goes on: the same content to the same person would freeze it again, everything else goes through.
_UNFREEZE = text("""
    WITH changed AS (
      UPDATE producers SET frozen_at = NULL, frozen_reason = NULL WHERE name = :name AND frozen_at IS NOT NULL
      RETURNING name
    ), over AS (
      DELETE FROM alerts a USING changed c WHERE a.account = 'producer:' || c.name
    ), written AS (
      INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'unfrozen', 'producer:' || name, :reason
      FROM changed
    )
    SELECT name FROM changed
""")


@dataclass(frozen=True)
class Producer:
    """A producer, what it may do, and what it has used of its caps in the windows that run now.

    Attributes:
        in_minute: People in the minute that runs; `in_day` and `new_in_day` (new people) likewise.
    """

    name: str
    policy: ProducerPolicy
    frozen_at: datetime | None
    in_minute: int
    in_day: int
    new_in_day: int


@dataclass(frozen=True)
class Producers:
    """The operator's hand on what producers may do.

    Attributes:
        actor: Who acts, for the audit trail.
    """

    engine: Engine
    actor: str

    def list(self) -> list[Producer]:
        """Return the producers that have a policy of their own, or are frozen."""
        with transaction(self.engine) as connection:
            return [_producer(row) for row in connection.execute(_ALL)]

    def find(self, name: str) -> Producer | None:
        """Return one producer; None when it has the policy of everybody."""
        with transaction(self.engine) as connection:
            row = connection.execute(_FIND, {"name": name}).one_or_none()
            return None if row is None else _producer(row)

    def set(self, name: str, policy: ProducerPolicy, *, reason: str) -> Producer:
        """Give a producer a policy; whether it is frozen stays as it is."""
        values = {
            "name": name,
            "per_minute": policy.per_minute,
            "per_day": policy.per_day,
            "new_recipients_per_day": policy.new_recipients_per_day,
            "recipients_per_mail": policy.recipients_per_mail,
            "allowed": None if policy.allowed is None else sorted(policy.allowed),
            "senders": None if policy.senders is None else sorted(policy.senders),
            "most_open": policy.most_open,
            "most_open_mb": policy.most_open_mb,
            "needs_approval": policy.needs_approval,
            "loop_most": policy.loop.most if policy.loop else 0,
            "loop_within": policy.loop.within if policy.loop else timedelta(),
        }
        with transaction(self.engine) as connection:
            return _producer(connection.execute(_SET, values | {"actor": self.actor, "reason": reason}).one())

    def freeze(self, name: str, *, reason: str) -> Producer:
        """Take nothing more from a producer."""
        with transaction(self.engine) as connection:
            values = {"name": name, "actor": self.actor, "reason": reason}
            return _producer(connection.execute(_FREEZE, values).one())

    def unfreeze(self, name: str, *, reason: str) -> bool:
        """Take commands from a producer again, and end its alert; False when it was not frozen."""
        with transaction(self.engine) as connection:
            values = {"name": name, "actor": self.actor, "reason": reason}
            return connection.scalar(_UNFREEZE, values) is not None


class StoredPolicies:
    """The policies of all producers as this process knows them; see `delivery.producers.Policies`.

    Args:
        engine: Where they are read, all at once and no more often than every few seconds.
        vault: Makes the keyed hashes.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(self, engine: Engine, vault: Vault, *, ticks: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._vault = vault
        self._ticks = ticks
        self._known: Mapping[str, ProducerPolicy] = {}
        self._suppressed: frozenset[bytes] = frozenset()
        self._good_until = float("-inf")
        self._asking = threading.Lock()

    def of(self, producer: str) -> ProducerPolicy:
        """Return the policy of a producer; everybody's when none was set for it.

        Raises:
            LedgerUnavailable: Postgres is away, and what was known is too old.
        """
        if self._ticks() >= self._good_until:
            with self._asking:  # one asks for all, and nobody goes on with less than what holds now
                if self._ticks() >= self._good_until:
                    self._read()
        return self._known.get(producer, DEFAULT)

    def mark(self, recipient: str) -> str:
        """Return the keyed hash of a recipient, as allow-lists hold it."""
        return self._vault.hash(recipient).hex()

    def is_suppressed(self, recipient: str) -> bool:
        """Tell whether the person was erased and nothing is accepted for them."""
        return bool(self._suppressed) and self._vault.hash(recipient) in self._suppressed

    def forget(self) -> None:
        """Read anew at the next question."""
        self._good_until = float("-inf")

    def _read(self) -> None:
        until = self._ticks() + _FRESH_S  # counted from before the question
        with statement(self._engine) as connection:
            self._known = {row.name: policy_of(row) for row in connection.execute(_ALL)}
            self._suppressed = frozenset(map(bytes, connection.scalars(_SUPPRESSED)))
        self._good_until = until


def policy_of(row: Row[Any]) -> ProducerPolicy:
    """Return the policy that a row of `producers` holds."""
    return ProducerPolicy(
        per_minute=row.per_minute,
        per_day=row.per_day,
        new_recipients_per_day=row.new_recipients_per_day,
        recipients_per_mail=row.recipients_per_mail,
        allowed=None if row.allowed is None else frozenset(row.allowed),
        senders=None if row.senders is None else frozenset(row.senders),
        most_open=row.most_open or DEFAULT.most_open,
        most_open_mb=row.most_open_mb or DEFAULT.most_open_mb,
        needs_approval=row.needs_approval,
        loop=LoopGuard(row.loop_most, row.loop_within) if row.loop_most else None,
        frozen=None if row.frozen_at is None else row.frozen_reason or "frozen",
    )


def _producer(row: Row[Any]) -> Producer:
    used = Used(row.minute_from, row.in_minute, row.day_from, row.in_day, row.new_in_day).at(datetime.now(UTC))
    return Producer(row.name, policy_of(row), row.frozen_at, used.in_minute, used.in_day, used.new_in_day)
