"""API keys of producers: only a hash is stored, so a key is shown once, when it is made, and never again.

A plain SHA-256 is enough: a key is 160 random bits, and nobody can try them all.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, text

from config.api_key_text import new_api_key
from delivery.ids import new_id
from ledger.database import statement, transaction

_HINT_CHARS = 12

_CREATE = text("""
    WITH made AS (
      INSERT INTO api_keys (id, hash, hint, producer, scopes, expires_at, created_by)
      VALUES (:id, :hash, :hint, :producer, :scopes, :expires_at, :actor)
      RETURNING *
    ), written AS (
      INSERT INTO audit (actor, action, reason)
      SELECT :actor, 'key_created', hint || ' for ' || producer || ': ' || array_to_string(scopes, ', ') FROM made
    )
    SELECT * FROM made
""")
_FIND = text("""
    SELECT * FROM api_keys WHERE hash = :hash AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")
_HASHES = text("SELECT hash FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())")
_REVOKE = text("""
    WITH ended AS (
      UPDATE api_keys SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING id, hint, producer
    ), written AS (
      INSERT INTO audit (actor, action, reason)
      SELECT :actor, 'key_revoked', hint || ' of ' || producer || ': ' || :reason FROM ended
    )
    SELECT id FROM ended
""")
_LIST = text("""
    SELECT * FROM api_keys WHERE (CAST(:producer AS text) IS NULL OR producer = :producer) ORDER BY id DESC LIMIT :most
""")


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key; never the key.

    Attributes:
        hint: How it begins, so that a person recognises it.
        producer: Whose deliveries it opens and sees.
        scopes: What it may do, e.g. ("submit", "read").
    """

    id: UUID
    hint: str
    producer: str
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class ApiKeys:
    """Makes, finds, lists and revokes keys."""

    engine: Engine

    def create(
        self, producer: str, scopes: Collection[str], *, actor: str, expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key for a producer.

        Args:
            actor: Who makes it, for the audit trail.

        Returns:
            What is kept of it, and the key itself: this is the only time that anybody sees it.
        """
        secret = new_api_key()
        values = {
            "id": new_id(),
            "hash": api_key_hash(secret),
            "hint": secret[:_HINT_CHARS],
            "producer": producer,
            "scopes": list(dict.fromkeys(scopes)),
            "expires_at": expires_at,
            "actor": actor,
        }
        with transaction(self.engine) as connection:
            return _key(connection.execute(_CREATE, values).one()), secret

    def find(self, key_hash: bytes) -> ApiKey | None:
        """Return the key with this hash, or None when it is unknown, revoked or expired.

        Raises:
            LedgerUnavailable: Postgres is away; whether the key is good cannot be said.
        """
        with statement(self.engine) as connection:
            row = connection.execute(_FIND, {"hash": key_hash}).one_or_none()
            return None if row is None else _key(row)

    def hashes(self) -> frozenset[bytes]:
        """Return the hashes of all keys that are in force.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        with statement(self.engine) as connection:
            return frozenset(bytes(each) for each in connection.scalars(_HASHES))

    def revoke(self, key_id: UUID, *, actor: str, reason: str) -> bool:
        """End a key; False when there is none such, or it was revoked before."""
        values = {"id": key_id, "actor": actor, "reason": reason}
        with transaction(self.engine) as connection:
            return connection.scalar(_REVOKE, values) is not None

    def list(self, *, producer: str | None = None, most: int = 100) -> tuple[ApiKey, ...]:
        """Return keys, newest first, the ended ones among them."""
        with transaction(self.engine) as connection:
            return tuple(_key(row) for row in connection.execute(_LIST, {"producer": producer, "most": most}))


def api_key_hash(secret: str) -> bytes:
    """Return what is stored in place of a key, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        hint=row.hint,
        producer=row.producer,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
