"""Where producers are told, and the secrets they check our signatures with.

URLs and secrets are sealed; an endpoint is found by the keyed hash of its URL. Whoever opens a secret here shows it
once, to the person who asked for it.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from delivery.callbacks import Endpoint, account_of
from delivery.ids import new_id
from ledger.database import Engine, statement, transaction
from ledger.vault import Vault

# Source: Standard Webhooks, "Signature scheme" (24 to 64 random bytes), read 2026-11-22.
_SECRET_BYTES = 32
# A producer, and a URL of it.
Place = tuple[str, str]
_REMEMBERED = 4096

_KEEP = text("""
    INSERT INTO endpoints (id, producer, address, account, url) VALUES (:id, :producer, :address, :account, :url)
    ON CONFLICT (producer, address) DO NOTHING
""")
_FIND_IDS = text("""
    SELECT e.producer, e.address, e.id FROM endpoints e
    JOIN unnest(CAST(:producers AS text[]), CAST(:addresses AS bytea[])) AS w (producer, address)
      ON w.producer = e.producer AND w.address = e.address
""")
_COUNT = text("""
    SELECT producer, count(*) AS n FROM endpoints WHERE producer = ANY(CAST(:producers AS text[])) GROUP BY producer
""")
_FIND = text("""
    SELECT e.id, e.url, e.producer, e.disabled_reason, s.id AS secret_id, s.secret
    FROM endpoints e LEFT JOIN signing_secrets s
      ON s.producer = e.producer AND (s.ends_at IS NULL OR s.ends_at > now())
    WHERE e.id = :id ORDER BY s.created_at DESC
""")
_DISABLE = text("""
    WITH shut AS (
      UPDATE endpoints SET disabled_at = now(), disabled_reason = :reason WHERE id = :id AND disabled_at IS NULL
      RETURNING account, id
    )
    INSERT INTO audit (actor, action, account, reason)
    SELECT :actor, 'endpoint_disabled', account, id || ': ' || :reason FROM shut RETURNING id
""")
_ENABLE = text("""
    WITH opened AS (
      UPDATE endpoints SET disabled_at = NULL, disabled_reason = NULL WHERE id = :id AND disabled_at IS NOT NULL
      RETURNING account, id
    )
    INSERT INTO audit (actor, action, account, reason)
    SELECT :actor, 'endpoint_enabled', account, id || ': ' || :reason FROM opened RETURNING id
""")
_LIST = text("""
    SELECT * FROM endpoints
    WHERE (CAST(:producer AS text) IS NULL OR producer = :producer) AND (NOT :disabled OR disabled_at IS NOT NULL)
    ORDER BY id DESC LIMIT :most
""")
_KNOWS = text("SELECT EXISTS (SELECT FROM endpoints WHERE account = :account)")
_MAKE_SECRET = text("""
    INSERT INTO signing_secrets (id, producer, secret) VALUES (:id, :producer, :secret)
    ON CONFLICT (producer) WHERE ends_at IS NULL DO NOTHING
""")
_SHOW_SECRET = text("""
    UPDATE signing_secrets SET shown_at = now()
    WHERE producer = :producer AND ends_at IS NULL AND shown_at IS NULL RETURNING id, secret
""")
_RETIRE_SECRET = text("""
    UPDATE signing_secrets SET ends_at = now() + :keep_s * interval '1 second'
    WHERE producer = :producer AND ends_at IS NULL
""")
_NOTE = text("INSERT INTO audit (actor, action, reason) VALUES (:actor, :action, :producer)")


@dataclass(frozen=True)
class Listed:
    """An endpoint as a person may see it: its host, never the whole URL.

    Attributes:
        account: "callback:" and the host.
    """

    id: UUID
    producer: str
    account: str
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None


@dataclass(frozen=True)
class PostgresEndpoints:
    """The endpoints of a Postgres ledger; implements `delivery.callbacks.Endpoints`."""

    engine: Engine
    vault: Vault
    _known: dict[tuple[str, str], UUID] = field(default_factory=dict, repr=False, compare=False)

    def register(self, producer: str, url: str) -> UUID:
        """Return the id of a URL of our own, and keep the URL when it is new.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        return self.register_all({(producer, url)}, most=None)[producer, url]

    def register_all(self, wanted: Collection[Place], *, most: int | None) -> Mapping[Place, UUID]:
        """Return the ids of producers' URLs, and keep those that are new; a producer's first one makes a secret.

        All of them in one transaction of its own, so that this process may remember them whatever becomes of the
        deliveries.

        Args:
            most: A producer keeps so many and no more; those beyond are missing in the answer. None: no bound.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        found = {place: self._known[place] for place in wanted if place in self._known}
        missing = sorted(set(wanted) - set(found))
        if missing:
            made = self._register(missing, most)
            found |= made
            for place, id_ in made.items():
                while len(self._known) >= _REMEMBERED:
                    self._known.pop(next(iter(self._known)), None)
                self._known[place] = id_
        return found

    def find(self, endpoint: UUID) -> Endpoint | None:
        """See `delivery.callbacks.Endpoints.find`."""
        with statement(self.engine) as connection:
            rows = connection.execute(_FIND, {"id": endpoint}).all()
        if not rows:
            return None
        url = self._open(rows[0].url, _url_place(endpoint)).decode()
        keys = [self._open(row.secret, _secret_place(row.secret_id)) for row in rows if row.secret is not None]
        return Endpoint(url, rows[0].producer, tuple(keys), rows[0].disabled_reason)

    def disable(self, endpoint: UUID, *, actor: str, reason: str) -> bool:
        """See `delivery.callbacks.Endpoints.disable`."""
        with transaction(self.engine) as connection:
            return connection.scalar(_DISABLE, {"id": endpoint, "actor": actor, "reason": reason}) is not None

    def enable(self, endpoint: UUID, *, actor: str, reason: str) -> bool:
        """Send there again from now on; False when nothing was disabled. What was not told meanwhile is not told."""
        with transaction(self.engine) as connection:
            return connection.scalar(_ENABLE, {"id": endpoint, "actor": actor, "reason": reason}) is not None

    def search(self, *, producer: str | None = None, disabled: bool = False, most: int = 100) -> list[Listed]:
        """Return endpoints, newest first.

        Args:
            producer: Only this one's.
            disabled: Only those that get nothing.
        """
        values = {"producer": producer, "disabled": disabled, "most": most}
        with transaction(self.engine) as connection:
            rows = connection.execute(_LIST, values)
            return [Listed(r.id, r.producer, r.account, r.created_at, r.disabled_at, r.disabled_reason) for r in rows]

    def knows(self, account: str) -> bool:
        """Tell whether an account, e.g. "callback:loja.exemplo.com.br", is the host of an endpoint."""
        with transaction(self.engine) as connection:
            return bool(connection.scalar(_KNOWS, {"account": account}))

    def show_secret(self, producer: str, *, actor: str) -> bytes | None:
        """Return the producer's current secret, made now if there is none; None when it was shown before."""
        with transaction(self.engine) as connection:
            connection.execute(_MAKE_SECRET, self._new_secret(producer)[1])
            row = connection.execute(_SHOW_SECRET, {"producer": producer}).one_or_none()
            if row is None:
                return None
            connection.execute(_NOTE, {"actor": actor, "action": "secret_shown", "producer": producer})
            return self._open(row.secret, _secret_place(row.id))

    def rotate_secret(self, producer: str, *, keep: timedelta, actor: str) -> bytes | None:
        """Return a new secret for a producer.

        Args:
            keep: For how long the old one signs beside it.

        Returns:
            None when somebody else rotated it in this moment; nothing was changed.
        """
        key, values = self._new_secret(producer)
        with transaction(self.engine) as connection:
            connection.execute(_RETIRE_SECRET, {"producer": producer, "keep_s": keep.total_seconds()})
            if not connection.execute(_MAKE_SECRET, values).rowcount:
                return None
            connection.execute(_SHOW_SECRET, {"producer": producer})
            connection.execute(_NOTE, {"actor": actor, "action": "secret_rotated", "producer": producer})
        return key

    def _register(self, wanted: Sequence[Place], most: int | None) -> dict[Place, UUID]:
        hashes = {place: self.vault.hash(place[1]) for place in wanted}
        with transaction(self.engine) as connection:
            found = self._found(connection, hashes)
            missing = [place for place in wanted if place not in found]
            new = self._within(connection, missing, most)
            if new:
                rows = [self._row(place, hashes[place]) for place in new]
                signing = [self._new_secret(producer)[1] for producer in sorted({producer for producer, _ in new})]
                connection.execute(_KEEP, rows)
                connection.execute(_MAKE_SECRET, signing)
                # Another process may have been first: what stands in the table is the endpoint.
                found |= self._found(connection, {place: hashes[place] for place in new})
        return found

    def _found(self, connection: Connection, hashes: Mapping[Place, bytes]) -> dict[Place, UUID]:
        values = {"producers": [place[0] for place in hashes], "addresses": list(hashes.values())}
        rows = {(row.producer, bytes(row.address)): row.id for row in connection.execute(_FIND_IDS, values)}
        return {place: rows[place[0], each] for place, each in hashes.items() if (place[0], each) in rows}

    def _within(self, connection: Connection, missing: Sequence[Place], most: int | None) -> list[Place]:
        """Return those for which their producers have room."""
        if most is None or not missing:
            return list(missing)
        rows = connection.execute(_COUNT, {"producers": sorted({producer for producer, _ in missing})})
        kept, room = Counter({row.producer: row.n for row in rows}), []
        for place in missing:
            if kept[place[0]] < most:
                kept[place[0]] += 1
                room.append(place)
        return room

    def _row(self, place: Place, address: bytes) -> dict[str, object]:
        id_, (producer, url) = new_id(), place
        sealed = self.vault.masters.wrap(url.encode(), _url_place(id_))
        return {"id": id_, "producer": producer, "address": address, "account": account_of(url), "url": sealed}

    def _new_secret(self, producer: str) -> tuple[bytes, dict[str, object]]:
        id_, key = new_id(), secrets.token_bytes(_SECRET_BYTES)
        sealed = self.vault.masters.wrap(key, _secret_place(id_))
        return key, {"id": id_, "producer": producer, "secret": sealed}

    def _open(self, sealed: bytes, place: str) -> bytes:
        return self.vault.masters.unwrap(bytes(sealed), place)


def _url_place(endpoint: UUID) -> str:
    return f"endpoints.url/{endpoint}"


def _secret_place(secret: UUID) -> str:
    return f"signing_secrets.secret/{secret}"
