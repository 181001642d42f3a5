"""Credentials in Postgres: sealed, replaced by compare-and-set, renewed by one process at a time.

The right to renew is a lease in the row, as with a delivery: no transaction and no connection is held while a provider
is asked, and what a killed process held is free again after a while, by the database clock.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, Row, text

from delivery.credentials import Credential
from ledger.database import transaction
from ledger.vault import Vault

_FIND = text("SELECT version, sealed, unproven_since FROM credentials WHERE account = :account")
_BEGIN = text("""
    WITH free AS (
      SELECT account, unproven_since FROM credentials
      WHERE account = :account AND (renewing_until IS NULL OR renewing_until <= now())
      FOR UPDATE
    )
    UPDATE credentials c
       SET renewing_until = now() + :keep_s * interval '1 second', unproven_since = coalesce(c.unproven_since, now())
    FROM free WHERE c.account = free.account
    RETURNING c.version, c.sealed, free.unproven_since
""")
_REPLACE = text("""
    UPDATE credentials
       SET sealed = :sealed, version = version + 1, changed_at = now(), renewing_until = NULL, unproven_since = NULL
    WHERE account = :account AND version = :version
    RETURNING version
""")
_END = text("""
    UPDATE credentials
       SET renewing_until = NULL,
           unproven_since = CASE WHEN :doubtful THEN unproven_since ELSE CAST(:since AS timestamptz) END
    WHERE account = :account AND version = :version
""")
_GIVE = text("""
    WITH given AS (
      INSERT INTO credentials AS c (account, sealed) VALUES (:account, :sealed)
      ON CONFLICT (account) DO UPDATE
         SET sealed = excluded.sealed, version = c.version + 1, changed_at = now(), renewing_until = NULL,
             unproven_since = NULL
      RETURNING account
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'credential given', account, :reason FROM given
""")


@dataclass(frozen=True)
class PostgresCredentials:
    """The ledger's credentials; see `delivery.credentials.CredentialStore`."""

    engine: Engine
    vault: Vault

    def find(self, account: str) -> Credential | None:
        """See `CredentialStore.find`."""
        with transaction(self.engine) as connection:
            row = connection.execute(_FIND, {"account": account}).one_or_none()
        return self._opened(account, row) if row else None

    def begin_renewal(self, account: str, *, keep_for: timedelta) -> Credential | None:
        """See `CredentialStore.begin_renewal`."""
        with transaction(self.engine) as connection:
            values = {"account": account, "keep_s": keep_for.total_seconds()}
            row = connection.execute(_BEGIN, values).one_or_none()
        return self._opened(account, row) if row else None

    def replace(self, account: str, version: int, secrets: Mapping[str, str]) -> bool:
        """See `CredentialStore.replace`."""
        with transaction(self.engine) as connection:
            values = {"account": account, "version": version, "sealed": self._sealed(account, secrets)}
            return connection.scalar(_REPLACE, values) is not None

    def end_renewal(self, account: str, begun: Credential, *, doubtful: bool) -> None:
        """See `CredentialStore.end_renewal`."""
        values = {"account": account, "version": begun.version, "doubtful": doubtful, "since": begun.unproven_since}
        with transaction(self.engine) as connection:
            connection.execute(_END, values)

    def give(self, account: str, secrets: Mapping[str, str], *, actor: str, reason: str) -> None:
        """Put an operator's new credential in place of whatever is there, with an audit row."""
        with transaction(self.engine) as connection:
            sealed = self._sealed(account, secrets)
            connection.execute(_GIVE, {"account": account, "sealed": sealed, "actor": actor, "reason": reason})

    def _sealed(self, account: str, secrets: Mapping[str, str]) -> bytes:
        return self.vault.masters.wrap(json.dumps(dict(secrets)).encode(), _place(account))

    def _opened(self, account: str, row: Row[Any]) -> Credential:
        secrets = json.loads(self.vault.masters.unwrap(bytes(row.sealed), _place(account)))
        return Credential(row.version, secrets, row.unproven_since)


def _place(account: str) -> str:
    return f"credentials.sealed/{account}"
