"""Where workers share one token: sealed, in Redis, gone before the token dies.

Owns the key, the lock beside it and the sealed form. It never fails because of Redis: without it nothing is shared,
and every process fetches for itself.
"""

import base64
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from redis import Redis, RedisError

# What a header can carry as one word. Source: RFC 6750, section 2.1, read 2026-11-22.
_SENDABLE = re.compile(r"[\x21-\x7e]{1,16384}")
_UNLOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
# A client that retries by itself was measured to take 4 s until it gives up; one such wait is enough for a while.
# (redis 8.1.0 with its default retries against a closed port, 2026-11-22.)
_AWAY = timedelta(seconds=30)

Found = TypeVar("Found")


def is_sendable(secret: str) -> bool:
    """Tell whether a header can carry this key or token."""
    return _SENDABLE.fullmatch(secret) is not None


@dataclass(frozen=True)
class Token:
    """A token and its times, in seconds of the clock of its holder: the wall clock on a shelf, else the monotonic.

    Attributes:
        refresh: What the next token is asked for with, where the answer brought one along.
    """

    text: str = field(repr=False)
    renew_at: float
    dies_at: float
    refresh: str | None = field(default=None, repr=False)

    def moved(self, by: float) -> "Token":
        """Return the same token by a clock that shows `by` seconds more."""
        return replace(self, renew_at=self.renew_at + by, dies_at=self.dies_at + by)


class Shelf(Protocol):
    """Where workers share one token, and who may fetch the next.

    Attributes:
        strict: True where nobody may fetch without the lock: a second fetch would end what the first one brought.
    """

    strict: bool

    def read(self) -> Token | None:
        """Return the shared token, times by the wall clock; None when there is none that is ours and whole."""
        ...

    def write(self, token: Token, *, keep_for: timedelta) -> None:
        """Share a token, times by the wall clock."""
        ...

    def lock(self, keep_for: timedelta) -> str | None:
        """Return the proof that we may fetch, None while another does."""
        ...

    def unlock(self, holder: str) -> None:
        """Let others fetch, if the lock is still ours."""
        ...

    def grant(self) -> Mapping[str, str]:
        """Return what the token is asked for with, as fields of the form; asked under the lock."""
        ...

    def refused(self) -> str:
        """Learn that the token endpoint refused us for good, and return what an operator should do."""
        ...


class TokenShelf:
    """One token of one service, for all workers.

    Args:
        redis: None when workers have no place to share.
        service: Names the key, `api:{service}:token`.
        mark: Tells our token from one that was fetched with other credentials.
        seal: Encrypts the token.
        unseal: Opens what `seal` closed; raises ValueError or InvalidTag for anything else.
        ticks: A monotonic clock, in seconds.
    """

    strict = False  # a second token beside the first harms nobody

    def __init__(  # noqa: PLR0913 - where, what and how, all by name
        self,
        *,
        redis: Redis | None,
        service: str,
        mark: str,
        seal: Callable[[bytes], bytes],
        unseal: Callable[[bytes], bytes],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._key = f"api:{service}:token"
        self._lock_key = f"{self._key}:lock"
        self._mark = mark
        self._seal = seal
        self._unseal = unseal
        self._ticks = ticks
        self._away_until = float("-inf")

    def read(self) -> Token | None:
        """Return the shared token, None when there is none that is ours and whole. Its times are by the wall clock."""
        kept = self._tried(lambda redis: redis.get(self._key), otherwise=None)
        return self._opened(kept) if kept else None

    def write(self, token: Token, *, keep_for: timedelta) -> None:
        """Share a token, times by the wall clock."""
        value = {"for": self._mark, "token": token.text, "renew_at": token.renew_at, "expires_at": token.dies_at}
        sealed = base64.b64encode(self._seal(json.dumps(value).encode()))
        self._tried(
            lambda redis: redis.set(self._key, sealed, px=max(keep_for, timedelta(milliseconds=1))), otherwise=None
        )

    def lock(self, keep_for: timedelta) -> str | None:
        """Return the proof that we may fetch, None while another does. Without Redis every process may."""
        holder = secrets.token_hex(16)
        taken = self._tried(lambda redis: bool(redis.set(self._lock_key, holder, nx=True, px=keep_for)), otherwise=True)
        return holder if taken else None

    def unlock(self, holder: str) -> None:
        """Let others fetch, if the lock is still ours."""
        self._tried(lambda redis: redis.register_script(_UNLOCK)([self._lock_key], [holder]), otherwise=None)

    def grant(self) -> Mapping[str, str]:
        """Ask by our own name alone."""
        return {"grant_type": "client_credentials"}

    def refused(self) -> str:
        """Name what may be wrong."""
        return "check client id, secret and scope"

    def _tried(self, ask: Callable[[Redis], Found], *, otherwise: Found) -> Found:
        if self._redis is None or self._ticks() < self._away_until:
            return otherwise
        try:
            return ask(self._redis)
        except RedisError:
            self._away_until = self._ticks() + _AWAY.total_seconds()
            return otherwise

    def _opened(self, kept: bytes | str) -> Token | None:
        try:
            value = json.loads(self._unseal(base64.b64decode(kept, validate=True)))
            if value["for"] != self._mark or not is_sendable(value["token"]):
                return None
            return Token(value["token"], float(value["renew_at"]), float(value["expires_at"]))
        except (ValueError, KeyError, TypeError, InvalidTag):
            return None
