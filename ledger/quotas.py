"""What producers have used of their caps, counted exactly: their rows stay locked until the deliveries are committed.

A producer without caps never comes here. Repeats of a key cost nothing; what is refused is not counted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, text

from delivery.errors import ProducerRefused
from delivery.producers import LOOPING, Used, excess
from ledger.entries import Entry, Key
from ledger.order import AWAITS_APPROVAL
from ledger.producers import policy_of

# In the order of their names, so that two batches never wait for each other.
_LOCK = text("""
    SELECT *, now() AS at FROM producers WHERE name = ANY(CAST(:names AS text[])) ORDER BY name FOR UPDATE
""")
_READ = text("SELECT *, now() AS at FROM producers WHERE name = ANY(CAST(:names AS text[]))")
_REPEATED = text("""
    SELECT i.producer, i.key FROM idempotency i
    JOIN unnest(CAST(:producers AS text[]), CAST(:keys AS text[])) AS wanted (producer, key)
      ON wanted.producer = i.producer AND wanted.key = i.key
    WHERE i.kept_until > now()
""")
_KNOWN_PEOPLE = text("SELECT person FROM people WHERE person = ANY(CAST(:people AS bytea[]))")
_KEEP = text("""
    UPDATE producers SET minute_from = :minute_from, in_minute = :in_minute, day_from = :day_from, in_day = :in_day,
                         new_in_day = :new_in_day
    WHERE name = :name
""")
# What was counted in a window that still runs. Whom a delivery met stays met, so new people are not given back.
_GIVE_BACK = text(f"""
    WITH unsent AS (
      SELECT d.producer, d.counted, d.created_at FROM deliveries d
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.counted IS NOT NULL AND {AWAITS_APPROVAL}
      ORDER BY d.id FOR UPDATE
    ), owed AS (
      SELECT p.name, coalesce(sum(u.counted) FILTER (WHERE u.created_at >= p.day_from), 0) AS of_day,
             coalesce(sum(u.counted) FILTER (WHERE u.created_at >= p.minute_from), 0) AS of_minute
      FROM unsent u JOIN producers p ON p.name = u.producer GROUP BY p.name
    )
    UPDATE producers p
       SET in_day = greatest(0, p.in_day - o.of_day), in_minute = greatest(0, p.in_minute - o.of_minute)
    FROM owed o WHERE p.name = o.name
""")  # noqa: S608 - a piece of `ledger.order`
# The producer alone is frozen; the alert stands until somebody unfreezes it.
_FREEZE = text("""
    WITH frozen AS (
      INSERT INTO producers AS p (name, frozen_at, frozen_reason)
      SELECT name, now(), :reason FROM unnest(CAST(:names AS text[])) AS name ORDER BY name
      ON CONFLICT (name) DO UPDATE SET frozen_at = now(), frozen_reason = excluded.frozen_reason
       WHERE p.frozen_at IS NULL
      RETURNING name, frozen_reason
    ), told AS (
      INSERT INTO alerts AS a (account, code, severity, reason, next_step)
      SELECT 'producer:' || name, :code, 'P2', frozen_reason, 'entrega producers unfreeze ' || name FROM frozen
      ON CONFLICT (account, code) DO UPDATE SET reason = excluded.reason, first_at = now(), last_at = now()
    )
    INSERT INTO audit (actor, action, account, reason)
    SELECT 'loop guard', 'frozen', 'producer:' || name, frozen_reason FROM frozen
""")


@dataclass(frozen=True)
class Admission:
    """What may be opened, some of it held, and what may not."""

    entries: list[Entry]
    refused: Mapping[UUID, ProducerRefused]


def admit(connection: Connection, entries: Sequence[Entry], *, only_look: bool = False) -> Admission:
    """Count new deliveries against the caps of their producers, in the caller's transaction, before they are opened.

    Args:
        only_look: Count nothing and lock nothing: only tell what would be admitted.
    """
    # Looking keeps no callback URL, so none is missing there.
    lost = [each.new.id for each in entries if each.url and not each.endpoint and not only_look]
    crowded = {id_: ProducerRefused("too_many_endpoints") for id_ in lost}
    names = sorted({each.new.producer for each in entries if each.new.policy.counts})
    if not names:
        return _parted(entries, crowded)
    rows = connection.execute(_READ if only_look else _LOCK, {"names": names}).all()
    book = _Book(connection, entries, crowded)
    for row in rows:
        used = Used(row.minute_from, row.in_minute, row.day_from, row.in_day, row.new_in_day).at(row.at)
        policy = policy_of(row)
        for each in entries:
            if each.new.producer != row.name or each.new.id in crowded or book.repeats(each):
                continue
            people, new_people = len(each.people), book.new_among(each.people)
            refused = excess(policy, used, people=people, new_people=new_people)
            if refused is not None:
                book.refused[each.new.id] = refused
            else:
                used = used.plus(people=people, new_people=new_people)
                book.take(each)
        if not only_look:
            connection.execute(_KEEP, {"name": row.name, **vars(used)})
    return _parted(entries, book.refused)


def _parted(entries: Sequence[Entry], found: Mapping[UUID, ProducerRefused]) -> Admission:
    """Part the batch: a message that cannot come back is held for a person where another one is refused."""
    admitted, refused = [], {}
    for each in entries:
        why = found.get(each.new.id)
        if why is None:
            admitted.append(each)
        elif each.new.origin is not None:
            held = replace(each.new, held_code=each.new.held_code or why.code)
            admitted.append(replace(each, new=held, people=()))
        else:
            refused[each.new.id] = why
    return Admission(admitted, refused)


class _Book:
    """What of one batch is known before: keys that stand for a delivery, and people."""

    def __init__(
        self, connection: Connection, entries: Sequence[Entry], refused: Mapping[UUID, ProducerRefused]
    ) -> None:
        keys = [key for each in entries for key in each.keys]
        wanted = {"producers": [producer for producer, _ in keys], "keys": [key for _, key in keys]}
        self._keys: set[Key] = {(row.producer, row.key) for row in connection.execute(_REPEATED, wanted)}
        people = connection.execute(_KNOWN_PEOPLE, {"people": list({p for each in entries for p in each.people})})
        self._people = {bytes(row.person) for row in people}
        self.refused = dict(refused)

    def repeats(self, entry: Entry) -> bool:
        return not self._keys.isdisjoint(entry.keys)

    def new_among(self, people: Sequence[bytes]) -> int:
        return len(set(people) - self._people)

    def take(self, entry: Entry) -> None:
        self._keys |= set(entry.keys)
        self._people |= set(entry.people)


def give_back(connection: Connection, ids: Collection[UUID]) -> None:
    """Give producers back what deliveries that wait for approval used of their caps: they are never sent.

    Comes before the change of their state, in the same transaction.
    """
    connection.execute(_GIVE_BACK, {"ids": list(ids)})


def freeze(connection: Connection, producers: Collection[str]) -> None:
    """Take nothing more from producers that send one person the same again and again, and raise an alert for each."""
    if not producers:
        return
    reason = "one person was sent the same content again and again"
    connection.execute(_FREEZE, {"names": sorted(producers), "reason": reason, "code": LOOPING})
