"""Who is asking: turns the API key of a request into a `Caller`, and says what that caller may do and see.

A key that was good is trusted for `_TRUSTED_S`, so a revocation is in force everywhere within that time. Policy for
each producer (rates, approvals) is not decided here; it begins with the `Caller`.
"""

import hmac
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from config.api_key_text import is_whole_api_key
from ingress.problems import Problem
from ledger.api_keys import ApiKey, ApiKeys, api_key_hash

Scope = Literal[
    "submit", "submit:create_lead", "submit:send_whatsapp", "submit:send_email", "read", "operate", "admin"
]  # fmt: skip

BOOTSTRAP_PRODUCER = "bootstrap"

_TRUSTED_S = 20.0
_MOST_TRUSTED = 5000
_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="`Authorization: Bearer <key>`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key")


@dataclass(frozen=True)
class Caller:
    """Who asks, and what for.

    Attributes:
        producer: Whose deliveries these are: it opens and sees its own.
        scopes: What its key may do.
    """

    producer: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Tell whether the key covers a scope; `admin` covers all, `operate` also reads, `submit` every kind."""
        wider = {scope, "admin"} | ({"operate"} if scope == "read" else set())
        return bool(self.scopes & (wider | {scope.partition(":")[0]}))

    @property
    def sees_all(self) -> bool:
        """True for operators; every other caller sees its own deliveries, and nobody else's exist for it."""
        return self.may("operate")

    @property
    def actor(self) -> str:
        """Its name in the audit trail."""
        return f"key:{self.producer}"


def is_producer(name: str) -> bool:
    """Tell whether a key may be made for this producer: a plain word, and none that our own doors use."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is not None and name != BOOTSTRAP_PRODUCER


class Doorkeeper:
    """Knows the keys.

    Args:
        keys: Where they are kept.
        bootstrap: The admin key of the first start; None when there is none.
        ticks: A monotonic clock, in seconds.
        now: The time, for keys that expire while they are trusted.
    """

    def __init__(
        self,
        keys: ApiKeys,
        bootstrap: SecretStr | None,
        *,
        ticks: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._bootstrap = api_key_hash(bootstrap.get_secret_value()) if bootstrap else None
        self._ticks = ticks
        self._now = now
        self._trusted: dict[bytes, tuple[ApiKey, float]] = {}

    def admit(self, secret: str | None) -> Caller:
        """Return who holds this key. May ask the ledger, so it does not belong on an event loop; see `trusts`.

        Raises:
            Problem: The key is missing, mistyped, unknown, revoked or expired.
            LedgerUnavailable: Whether the key is good cannot be said now.
        """
        if not secret:
            raise Problem("missing_key")
        key_hash = api_key_hash(secret)
        if self._bootstrap is not None and hmac.compare_digest(key_hash, self._bootstrap):
            return Caller(BOOTSTRAP_PRODUCER, frozenset({"admin"}))
        if not is_whole_api_key(secret):
            raise Problem("mistyped_key")
        key = self._fresh(key_hash) or self._found(key_hash)
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise Problem("unknown_key")
        return Caller(key.producer, frozenset(key.scopes))

    def trusts(self, secret: str | None) -> bool:
        """Tell whether `admit` can answer without asking the ledger."""
        return not secret or not is_whole_api_key(secret) or self._fresh(api_key_hash(secret)) is not None

    def _fresh(self, key_hash: bytes) -> ApiKey | None:
        key, until = self._trusted.get(key_hash, (None, 0.0))
        return key if until > self._ticks() else None

    def _found(self, key_hash: bytes) -> ApiKey | None:
        until = self._ticks() + _TRUSTED_S  # counted from before the question
        key = self._keys.find(key_hash)
        if key is None:
            self._trusted.pop(key_hash, None)
            return None
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted.clear()
        self._trusted[key_hash] = (key, until)
        return key

    def needs(self, *scopes: str) -> Callable[..., Coroutine[Any, Any, Caller]]:
        """Return a FastAPI dependency: the caller, whose key must cover one of these scopes.

        Raises:
            Problem: 401 or 403.
        """

        async def caller(
            bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
            header: Annotated[str | None, Security(_header)],
        ) -> Caller:
            secret = bearer.credentials if bearer else header
            found = self.admit(secret) if self.trusts(secret) else await run_in_threadpool(self.admit, secret)
            if not any(found.may(scope) for scope in scopes):
                raise Problem("missing_scope", scope=scopes[0])
            return found

        return caller
