"""The audit trail as a chain: a past row that is deleted, edited, added or reordered breaks it.

Hot paths write the rows, so a task chains them afterwards, in blocks: a block holds the keyed hash of its rows and is
linked to the block before. The key is derived from the index key, which neither a dump nor a role of the database
shows. When a reason is erased, its keyed hash takes its place. The last link is also kept in `vault`, wrapped by a
master key, and in the log: `entrega verify --end` detects a ledger that was replaced by an older copy.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from ledger.database import transaction
from ledger.sealing import Unreadable, keyed_hash
from ledger.vault import Vault

# Rows of one block.
_BLOCK = 5000
_MOST_BLOCKS = 200
# How long to wait for transactions that are writing audit rows just now.
_PATIENCE_S, _PAUSE_S = 3.0, 0.02
# A row that is older and in no block: nothing chains.
_LATE = timedelta(hours=1)
_HEAD = "audit_head"
# Before every id that a row can have, a forged one among them.
_START = -(2**63)

# An arbitrary number: one process extends the chain at a time.
_ALONE = text("SELECT pg_try_advisory_xact_lock(1164862323)")
_ISSUED = text("SELECT last_value FROM audit_id_seq")
# A transaction that writes a row takes this lock before the row gets its id, and keeps it until it ends.
_WRITERS = text("""
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'audit'::regclass AND mode = 'RowExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()
""")
_LAST = text("SELECT n, last_id, link FROM audit_chain ORDER BY n DESC LIMIT 1")
_ROWS = text("""
    SELECT id, at, actor, action, delivery_id, account, reason, reason_hash FROM audit
    WHERE id > :after AND id <= :upto ORDER BY id LIMIT :most
""")
_ADD = text("INSERT INTO audit_chain (n, last_id, rows, digest, link) VALUES (:n, :last_id, :rows, :digest, :link)")
_KEEP_HEAD = text("""
    INSERT INTO vault (name, wrapped) VALUES (:name, :head) ON CONFLICT (name) DO UPDATE SET wrapped = excluded.wrapped
""")
_FIND_HEAD = text("SELECT wrapped FROM vault WHERE name = :name")
_BLOCKS = text("SELECT n, last_id, rows, digest, link, purged FROM audit_chain WHERE n > :n ORDER BY n LIMIT :most")
_PURGED = text("SELECT purged FROM audit_chain WHERE n = :n")
_UNCHAINED = text("SELECT count(*) FROM audit WHERE id > :last_id AND at < now() - CAST(:late AS interval)")
_OLD_BLOCKS = text("""
    SELECT c.n, c.last_id, c.link, coalesce((SELECT b.last_id FROM audit_chain b WHERE b.n = c.n - 1), :start) AS after
    FROM audit_chain c WHERE c.purged IS NULL AND c.at < :before ORDER BY c.n
""")
# All or nothing: a block whose delivery is still there waits for it.
_FORGET = text("""
    WITH gone AS (
      DELETE FROM audit WHERE id > :after AND id <= :last_id AND NOT EXISTS (
        SELECT FROM audit a WHERE a.id > :after AND a.id <= :last_id
         AND (a.at >= :before OR EXISTS (SELECT FROM deliveries d WHERE d.id = a.delivery_id)))
      RETURNING action
    ), counted AS (
      INSERT INTO purged AS p (what, n) SELECT 'accepted', count(*) FROM gone WHERE action = 'accepted'
      ON CONFLICT (what) DO UPDATE SET n = p.n + excluded.n
    )
    SELECT count(*) FROM gone
""")
_REASONS = text("""
    SELECT id, reason FROM audit
    WHERE delivery_id = ANY(CAST(:ids AS uuid[])) AND reason IS NOT NULL AND action <> 'erased' ORDER BY id FOR UPDATE
""")
_FORGET_REASONS = text("""
    UPDATE audit a SET reason = NULL, reason_hash = new.hash
    FROM unnest(CAST(:ids AS bigint[]), CAST(:hashes AS bytea[])) AS new (id, hash) WHERE a.id = new.id
""")
_MARK = text("UPDATE audit_chain SET purged = :proof WHERE n = :n")


@dataclass(frozen=True)
class Head:
    """The end of the chain. Shape as a text, as the log has it: "12:5f2c...", number and link."""

    n: int
    link: bytes

    def __str__(self) -> str:
        """Return number and link."""
        return f"{self.n}:{self.link.hex()}"


def head_of(typed: str) -> Head:
    """Return a head that was copied from a log.

    Raises:
        ValueError: It is none.
    """
    number, _, link = typed.partition(":")
    return Head(int(number), bytes.fromhex(link))


class AuditChain:
    """Extends, checks and shortens the chain of a ledger."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @cached_property
    def _key(self) -> bytes:
        return self._vault.hash("audit chain")

    def extend(self) -> Head | None:
        """Chain the rows whose order is settled; return the new end, or None when nothing was to be chained.

        One process does it at a time; another one, and writers that take too long, leave it for the next time.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        upto = self._settled()
        head = None
        for _ in range(_MOST_BLOCKS if upto else 0):
            added = self._add_block(upto)
            head = added or head
            if added is None:
                break
        return head

    def _settled(self) -> int:
        """Return an id up to which no row can appear any more; 0 when that cannot be said now."""
        with transaction(self._vault.engine) as connection:
            upto: int = connection.scalar(_ISSUED) or 0
            writers = set(connection.execute(_WRITERS).scalars())
        deadline = time.monotonic() + _PATIENCE_S
        while writers:
            if time.monotonic() > deadline:
                return 0
            time.sleep(_PAUSE_S)
            with transaction(self._vault.engine) as connection:
                writers &= set(connection.execute(_WRITERS).scalars())
        return upto

    def _add_block(self, upto: int) -> Head | None:
        with transaction(self._vault.engine) as connection:
            if not connection.scalar(_ALONE):
                return None
            last = connection.execute(_LAST).one_or_none()
            n, after, link = (last.n, last.last_id, bytes(last.link)) if last else (0, _START, b"")
            rows = connection.execute(_ROWS, {"after": after, "upto": upto, "most": _BLOCK}).all()
            if not rows:
                return None
            block = {"n": n + 1, "last_id": rows[-1].id, "rows": len(rows), "digest": self._digest(rows)}
            head = Head(n + 1, self._link(block, link))
            connection.execute(_ADD, block | {"link": head.link})
            wrapped = self._vault.masters.wrap(str(head).encode(), f"vault.{_HEAD}")
            connection.execute(_KEEP_HEAD, {"name": _HEAD, "head": wrapped})
        return head

    def faults(self, *, noted: Head | None = None) -> dict[str, int]:
        """Return what does not fit, as a count for each kind of fault; empty when the chain is whole.

        The chain may be extended and purged meanwhile.

        Args:
            noted: A head that a log remembers; it has to be a part of the chain.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        # The kept end is read first: what is chained meanwhile comes behind it.
        ends = [each for each in (self._kept_head(), noted) if each is not None]
        changed, end, last_id = 0, Head(0, b""), _START
        known = set()
        for block in self._blocks():
            changed += not self._fits(block, end, last_id)
            end, last_id = Head(block.n, bytes(block.link)), block.last_id
            known.add(end)
        with transaction(self._vault.engine) as connection:
            unchained = connection.scalar(_UNCHAINED, {"last_id": last_id, "late": _LATE}) or 0
        missing = sum(each not in known for each in ends) + bool(known and not ends and self._kept_head() is None)
        found = {"audit_blocks_changed": changed, "audit_ends_missing": missing, "audit_rows_unchained": unchained}
        return {name: n for name, n in found.items() if n}

    def purge(self, period: timedelta) -> int:
        """Delete the rows of blocks that are older than this and whose deliveries are gone; return how many rows.

        The blocks themselves stay, so that the chain can still be followed.

        Raises:
            LedgerUnavailable: Postgres is away; the rest goes with the next purge.
        """
        before = datetime.now(UTC) - period
        with transaction(self._vault.engine) as connection:
            blocks = connection.execute(_OLD_BLOCKS, {"before": before, "start": _START}).all()
        gone = 0
        for each in blocks:
            with transaction(self._vault.engine) as connection:
                values = {"after": each.after, "last_id": each.last_id, "before": before}
                deleted = connection.scalar(_FORGET, values) or 0
                if deleted:
                    proof = self._purged(Head(each.n, bytes(each.link)))
                    connection.execute(_MARK, {"n": each.n, "proof": proof})
            gone += deleted
        return gone

    def forget_reasons(self, connection: Connection, deliveries: Collection[UUID]) -> None:
        """Erase, in the caller's transaction, the reasons of all that was done with deliveries but their erasure."""
        rows = connection.execute(_REASONS, {"ids": list(deliveries)}).all()
        hashes = [self._reason_hash(row.id, row.reason) for row in rows]
        connection.execute(_FORGET_REASONS, {"ids": [row.id for row in rows], "hashes": hashes})

    def _blocks(self) -> Iterator[Row[Any]]:
        n = 0
        while True:
            with transaction(self._vault.engine) as connection:
                blocks = connection.execute(_BLOCKS, {"n": n, "most": 1000}).all()
            if not blocks:
                return
            yield from blocks
            n = blocks[-1].n

    def _fits(self, block: Row[Any], before: Head, after: int) -> bool:
        with transaction(self._vault.engine) as connection:
            values = {"after": after, "upto": block.last_id, "most": block.rows + 1}
            rows = connection.execute(_ROWS, values).all()
            purged = block.purged
            if purged is None and not rows:  # the purge may have come since the block was read
                purged = connection.scalar(_PURGED, {"n": block.n})
        if purged is not None:
            proof = self._purged(Head(block.n, bytes(block.link)))
            is_whole = not rows and hmac.compare_digest(bytes(purged), proof)
        else:
            is_whole = hmac.compare_digest(bytes(block.digest), self._digest(rows))
        link = self._link(dict(block._mapping), before.link)  # noqa: SLF001 - SQLAlchemy's public name
        return is_whole and block.n == before.n + 1 and hmac.compare_digest(bytes(block.link), link)

    def _kept_head(self) -> Head | None:
        with transaction(self._vault.engine) as connection:
            wrapped = connection.scalar(_FIND_HEAD, {"name": _HEAD})
        if wrapped is None:
            return None
        try:
            return head_of(self._vault.masters.unwrap(bytes(wrapped), f"vault.{_HEAD}").decode())
        except Unreadable:  # it was replaced
            return Head(-1, b"")

    def _digest(self, rows: Iterable[Row[Any]]) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for row in rows:
            reason = self._reason_hash(row.id, row.reason) if row.reason is not None else row.reason_hash
            facts = (row.id, row.at.isoformat(), row.actor, row.action, row.delivery_id, row.account)
            words = [None if each is None else str(each) for each in facts]
            digest.update(json.dumps([*words, bytes(reason).hex() if reason is not None else None]).encode() + b"\n")
        return digest.digest()

    def _reason_hash(self, row_id: int, reason: str) -> bytes:
        # With the row's id, so that equal reasons do not show as equal, and none can stand in for another one.
        return keyed_hash(self._key, f"{row_id}:{reason}")

    def _link(self, block: Mapping[str, Any], before: bytes) -> bytes:
        words = [block["n"], block["last_id"], block["rows"], bytes(block["digest"]).hex(), before.hex()]
        return keyed_hash(self._key, json.dumps(words))

    def _purged(self, head: Head) -> bytes:
        return keyed_hash(self._key, f"purged {head}")
