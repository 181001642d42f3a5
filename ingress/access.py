"""Who is asking: turns the API key of a request into a `Caller`, and says what that caller may do and see.

A key that was good is trusted for `_TRUSTED_S`, so a revocation is in force everywhere within that time. Policy for
each producer (rates, approvals) is not decided here; it begins with the `Caller`.
"""

import asyncio
import hmac
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.datastructures import Headers

from config.api_key_text import is_whole_api_key
from config.services import SERVICES
from ingress.problems import Problem
from ledger.api_keys import ApiKey, ApiKeys, api_key_hash

Scope = Literal[
    "submit", "submit:create_lead", "submit:send_whatsapp", "submit:send_email", "read", "metrics", "operate", "admin"
]  # fmt: skip

BOOTSTRAP_PRODUCER = "bootstrap"
# Under these names our own doors and tasks work, or might: a key for one of them would open what is not its producer's.
_OWN_NAMES = frozenset({
    BOOTSTRAP_PRODUCER, "celery", "cli", "demo", "entrega", "system", "up", "worker", "beat", "web", "flower",
    "sweep", "drain", "health", "confirm", "absorb", "doctor", "simulation", *SERVICES,
})  # fmt: skip

_TRUSTED_S = 20.0
# For a key that is not on the list of all keys, the list is read again, but not more often than this.
_LIST_EVERY_S = 0.25
_MOST_TRUSTED = 5000
_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="`Authorization: Bearer <key>`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key")


def key_in(headers: Headers) -> str | None:
    """Return the key of a request, from either of the two headers that may hold one."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer if scheme.lower() == "bearer" and bearer else headers.get("x-api-key")


@dataclass(frozen=True)
class Caller:
    """Who asks, and what for.

    Attributes:
        producer: Whose deliveries these are: it opens and sees its own.
        scopes: What its key may do.
        key: The key's id; None for the bootstrap key.
    """

    producer: str
    scopes: frozenset[str]
    key: UUID | None = None

    def may(self, scope: str) -> bool:
        """Tell whether the key covers a scope; `admin` covers all, `operate` reads everything, `submit` every kind."""
        wider = {scope, "admin"} | ({"operate"} if scope in {"read", "metrics"} else set())
        return bool(self.scopes & (wider | {scope.partition(":")[0]}))

    @property
    def sees_all(self) -> bool:
        """True for operators; every other caller sees its own deliveries, and nobody else's exist for it."""
        return self.may("operate")

    @property
    def actor(self) -> str:
        """Its name in the audit trail. Shape: "key:loja#<the key's id>", "key:bootstrap"."""
        return f"key:{self.producer}" + (f"#{self.key}" if self.key else "")


def is_producer(name: str) -> bool:
    """Tell whether a key may be made for this producer: a plain word, and none under which our own parts work."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is not None and name.lower() not in _OWN_NAMES


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
        self._listed: frozenset[bytes] = frozenset()
        self._list_at = float("-inf")
        self._next_list: asyncio.Task[None] | None = None
        self._one_reading = asyncio.Lock()

    def admit(self, secret: str | None) -> Caller:
        """Return who holds this key. May ask the ledger, so it does not belong on an event loop; see `trusts`.

        Raises:
            Problem: The key is missing, mistyped, unknown, revoked or expired.
            LedgerUnavailable: Whether the key is good cannot be said now.
        """
        if not secret:
            raise Problem("missing_key")
        key_hash = api_key_hash(secret)
        if self._is_bootstrap(key_hash):
            return Caller(BOOTSTRAP_PRODUCER, frozenset({"admin"}))
        if not is_whole_api_key(secret):
            raise Problem("mistyped_key")
        key = self._fresh(key_hash) or self._found(key_hash)
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise Problem("unknown_key")
        return Caller(key.producer, frozenset(key.scopes), key.id)

    def trusts(self, secret: str | None) -> bool:
        """Tell whether `admit` can answer without asking the ledger."""
        if not secret or not is_whole_api_key(secret):
            return True
        key_hash = api_key_hash(secret)
        return self._is_bootstrap(key_hash) or self._fresh(key_hash) is not None

    def remembers(self, secret: str) -> bool:
        """Tell, without asking anybody, whether this is known as a key of ours.

        The answer opens nothing: a key that was revoked or expired lately may still be remembered, and `admit`
        refuses it.
        """
        key_hash = api_key_hash(secret)
        return key_hash in self._listed or self._is_bootstrap(key_hash) or self._fresh(key_hash) is not None

    async def knows(self, secret: str) -> bool:
        """Tell whether this is known as a key of ours, also where it was made a moment ago.

        However many strangers guess keys, the ledger is read four times a second at most.

        Raises:
            LedgerUnavailable: The key is not remembered, and the ledger cannot be asked.
        """
        if not self.remembers(secret) and is_whole_api_key(secret):
            await self._list_again()
        return self.remembers(secret)

    def list_soon(self, secret: str) -> None:
        """Have the list of keys read again in the background, for the next time that somebody comes with this one."""
        if self._next_list is None and is_whole_api_key(secret) and not self.remembers(secret):
            self._next_list = asyncio.create_task(self._read_list())
            # It fails while the ledger is away. That is no news: each request that needs the ledger says so.
            self._next_list.add_done_callback(lambda each: each.cancelled() or each.exception())

    async def _list_again(self) -> None:
        """Read the list of keys; all who ask before the reading begins wait for the same one."""
        if self._next_list is None:
            self._next_list = asyncio.create_task(self._read_list())
        await asyncio.shield(self._next_list)

    async def _read_list(self) -> None:
        async with self._one_reading:
            await asyncio.sleep(max(0.0, self._list_at + _LIST_EVERY_S - self._ticks()))
            self._list_at = self._ticks()
            self._next_list = None  # a key that is made from now on may be missing on this list
            self._listed = await run_in_threadpool(self._keys.hashes)

    def _is_bootstrap(self, key_hash: bytes) -> bool:
        return self._bootstrap is not None and hmac.compare_digest(key_hash, self._bootstrap)

    def _fresh(self, key_hash: bytes) -> ApiKey | None:
        key, until = self._trusted.get(key_hash, (None, 0.0))
        return key if until > self._ticks() else None

    def _found(self, key_hash: bytes) -> ApiKey | None:
        until = self._ticks() + _TRUSTED_S  # counted from before the question
        key = self._keys.find(key_hash)
        if key is None:
            self._trusted.pop(key_hash, None)
            self._listed -= {key_hash}
            return None
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted.clear()
        self._trusted[key_hash] = (key, until)
        return key

    async def caller(self, secret: str | None) -> Caller:
        """Return who holds this key, as `admit`, without holding up the event loop.

        Raises:
            Problem: The key is missing, mistyped, unknown, revoked or expired.
            LedgerUnavailable: Whether the key is good cannot be said now.
        """
        if self.trusts(secret):
            return self.admit(secret)
        if not (secret and self.remembers(secret)):
            raise Problem("unknown_key")  # `ingress.arrival` had it looked for
        return await run_in_threadpool(self.admit, secret)

    def needs(self, *scopes: str) -> Callable[..., Coroutine[Any, Any, Caller]]:
        """Return a FastAPI dependency: the caller, whose key must cover one of these scopes.

        Raises:
            Problem: 401 or 403.
        """

        async def caller(
            bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
            header: Annotated[str | None, Security(_header)],
        ) -> Caller:
            found = await self.caller(bearer.credentials if bearer else header)
            if not any(found.may(scope) for scope in scopes):
                raise Problem("missing_scope", scope=scopes[0])
            return found

        return caller
