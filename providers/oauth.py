"""Proof of who we are: a fixed key, or a token that is fetched, shared and renewed ahead of its end.

Owns one token for one account. It fetches as seldom as it can, since every fetch may count against a quota, and it
keeps working without Redis, which only spares fetches. A token or secret never stands in an error, a `repr` or a log.

Source: RFC 6749, The OAuth 2.0 Authorization Framework, sections 4.4, 5 and 6, read 2026-11-22.
"""

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from config.policy import Timeouts
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from providers.http import Answer, HttpClient
from providers.token_shelf import Shelf, Token, is_sendable

_WORD = re.compile(r"[a-z_]{1,40}")
# A renewal ahead of its time that fails is tried again after this, while the old token still serves.
_RENEWAL_PAUSE = timedelta(seconds=30)
_LOOK_EVERY = timedelta(milliseconds=50)
_SERVER_ERROR = 500
_LONGEST_LIFE_S = 366 * 86_400.0
# Refusals of the token endpoint that pass by themselves, and our word for each.
_TRANSIENT: Mapping[int, str] = {408: "unavailable", 425: "unavailable", 429: "rate_limited"}
# Each process begins to renew at its own moment within this share of the margin, so that the first one renews while
# the others still work with the old token.
_SPREAD = 0.1


class Credentials(Protocol):
    """What a provider needs to know about proving who we are."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that prove it.

        Raises:
            Retryable: No token now; the request that needs it was surely not sent.
            Permanent: The account's credentials are refused.
        """
        ...

    def refused(self, headers: Mapping[str, str]) -> None:
        """Learn that the API answered 401 to these headers, so that the next ones are better if they can be.

        Raises:
            Retryable: As `headers`.
            Permanent: As `headers`.
        """
        ...


class ApiKey:
    """A fixed key in a header. It cannot be renewed: only an operator can replace it.

    Args:
        key: The secret.
        header: Where it goes, e.g. "X-API-Key".
        scheme: What stands before it, e.g. "Bearer ".

    Raises:
        Permanent: The key holds a character that no header can carry.
    """

    def __init__(self, key: SecretStr | str, *, header: str = "X-API-Key", scheme: str = "") -> None:
        text = _revealed(key)
        if not is_sendable(text):
            message = f"the key for {header} is empty or holds a space or control character; set it again"
            raise Permanent(message, code="unauthorized")
        self._headers = {header: scheme + text}

    def headers(self) -> Mapping[str, str]:
        """Return the header with the key."""
        return self._headers

    def refused(self, headers: Mapping[str, str]) -> None:
        """Do nothing: there is no other key."""


@dataclass(frozen=True)
class ClientCredentials:
    """Who we are at a token endpoint.

    Attributes:
        token_url: Absolute, without query.
        scope: Sent when set.
        default_life: How long a token lives when the answer does not say.
    """

    token_url: str
    client_id: str
    client_secret: SecretStr
    scope: str | None = None
    default_life: timedelta = timedelta(hours=1)

    def form(self) -> Mapping[str, str]:
        """Return our part of the form that asks for a token; it holds the secret."""
        names = {"client_id": self.client_id, "client_secret": self.client_secret.get_secret_value()}
        return {**names, "scope": self.scope} if self.scope else names

    def mark(self) -> str:
        """Return a short mark that tells tokens of other credentials apart; reveals nothing."""
        text = "\n".join((self.token_url, self.client_id, self.scope or ""))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class TokenSource:
    """One bearer token, shared by the threads of this process and, through its shelf, by every worker.

    Args:
        credentials: Who we are.
        shelf: Where workers share the token.
        http: The pooled session.
        timeouts: Of one call to the token endpoint. Others wait for that call no longer than its total.
        margin: How long before the end of a token of some life to renew it; never more than half of that life counts,
            or a short token would be fetched at every call.
        renewed: Told of each token that was fetched.
        wall: Seconds since 1970, for the times that workers share.
        ticks: A monotonic clock, for the times of this process.
        pause: Waits the seconds it is given, while another worker fetches.
        chance: A number from 0 to 1, once for each token; tests pass a fixed one.
    """

    def __init__(  # noqa: PLR0913 - what a shared token stands on, all by name
        self,
        *,
        credentials: ClientCredentials,
        shelf: Shelf,
        http: HttpClient,
        timeouts: Timeouts,
        margin: Callable[[timedelta], timedelta],
        renewed: Callable[[], object] = lambda: None,
        wall: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._credentials = credentials
        self._shelf = shelf
        self._http = http
        self._timeouts = timeouts
        self._margin = margin
        self._renewed = renewed
        self._wall = wall
        self._ticks = ticks
        self._pause = pause or threading.Event().wait
        self._chance = chance
        self._one_at_a_time = threading.Lock()
        self._held: Token | None = None
        self._failure: tuple[float, ProviderError] | None = None

    def headers(self) -> Mapping[str, str]:
        """Return the `Authorization` header."""
        return {"Authorization": f"Bearer {self.token()}"}

    def refused(self, headers: Mapping[str, str]) -> None:
        """Renew the token that these headers carried."""
        self.renew(headers["Authorization"].removeprefix("Bearer "))

    def token(self) -> str:
        """Return a token that is not near its end.

        Raises:
            Retryable: The token endpoint cannot give one now: "not_sent", "unavailable" or "rate_limited".
            Permanent: It refuses us: "unauthorized"; or cannot be used: "certificate", "misconfigured".
        """
        held = self._held
        if held is not None and self._ticks() < held.renew_at:
            return held.text
        return self._single_flight(failed=None)

    def renew(self, failed: str) -> str:
        """Return a token that is not `failed`; fetches only while the shared token is still the failed one.

        Raises:
            Retryable: As `token`.
            Permanent: As `token`.
        """
        return self._single_flight(failed=failed)

    def _single_flight(self, *, failed: str | None) -> str:
        asked_at = self._ticks()
        if not self._one_at_a_time.acquire(timeout=2 * self._timeouts.total_s):
            raise Retryable("no token yet: another thread is still asking for one; try again", code="unavailable")
        try:
            held = self._held
            if held is not None and held.text != failed and self._ticks() < held.renew_at:
                return held.text
            self._share_failure(asked_at)
            return self._obtain(failed)
        finally:
            self._one_at_a_time.release()

    def _share_failure(self, asked_at: float) -> None:
        # Those who waited for a call that failed get its verdict: asking in turn would add their time-outs up.
        if self._failure is not None and self._failure[0] > asked_at:
            err = self._failure[1]
            raise type(err)(str(err), code=err.code, retry_after=err.retry_after, http_status=err.http_status)

    def _obtain(self, failed: str | None) -> str:
        try:
            fresh = self._shared(failed) or self._fetch_for_all(failed)
        except ProviderError as err:
            return self._stay_with_the_old(err, failed)
        later = (fresh.dies_at - fresh.renew_at) * _SPREAD * self._chance()
        self._held = Token(fresh.text, fresh.renew_at + later, fresh.dies_at)
        return fresh.text

    def _stay_with_the_old(self, err: ProviderError, failed: str | None) -> str:
        held, now = self._held, self._ticks()
        if isinstance(err, Retryable) and held is not None and held.text != failed and now < held.dies_at:
            pause_s = _RENEWAL_PAUSE.total_seconds()
            self._held = Token(held.text, min(now + pause_s, held.dies_at), held.dies_at)
            return held.text
        self._failure = (now, err)
        raise err

    def _shared(self, failed: str | None) -> Token | None:
        found = self._shelf.read()
        if found is None or found.text == failed or self._wall() >= found.renew_at:
            return None
        return found.moved(self._ticks() - self._wall())

    def _fetch_for_all(self, failed: str | None) -> Token:
        """Fetch under the lock of the cluster; who does not get it waits for the token of who did."""
        # A wait inside a worker's slot is wrong as a rule; here it is one short call of another worker, and coming
        # back later would burn an attempt of every delivery that meets it.
        looks = int(self._timeouts.total_s / _LOOK_EVERY.total_seconds())
        for _ in range(looks):
            holder = self._shelf.lock(timedelta(seconds=self._timeouts.total_s) + _RENEWAL_PAUSE)
            if holder is not None:
                return self._fetch_locked(holder, failed)
            self._pause(_LOOK_EVERY.total_seconds())
            found = self._shared(failed)
            if found is not None:
                return found
        return self._fetch_beside()

    def _fetch_locked(self, holder: str, failed: str | None) -> Token:
        try:
            return self._shared(failed) or self._fetch()  # it may have been shared between the look and the lock
        finally:
            self._shelf.unlock(holder)

    def _fetch_beside(self) -> Token:
        """Fetch although somebody holds the lock, which may be a dead worker; not where two fetches harm each other."""
        if self._shelf.strict:
            raise Retryable(f"{_where(self._credentials)}: another worker renews the token", code="temporary")
        return self._fetch()

    def _fetch(self) -> Token:
        started_at, began_at = self._wall(), self._ticks()
        answer = self._ask()
        if answer.status >= HTTPStatus.BAD_REQUEST:
            self._refuse(answer, datetime.fromtimestamp(started_at, UTC))
        text, life = _token_in(answer, self._credentials)
        fresh_for = life - min(self._margin(life), life / 2)
        # Counted from the start of the request: the token was made somewhere between then and the answer.
        token = Token(text, fresh_for.total_seconds(), life.total_seconds(), _refresh_token_in(answer))
        # Nobody sees the token before the shelf has it: what is lost after its first use may be lost for good.
        self._shelf.write(token.moved(started_at), keep_for=fresh_for)
        self._renewed()
        return token.moved(began_at)

    def _refuse(self, answer: Answer, now: datetime) -> NoReturn:
        word = _error_word(answer.json())
        where = f"{_where(self._credentials)}: no token ({answer.status} {word})".replace(" )", ")")
        facts: dict[str, Any] = {"http_status": answer.status, "provider_code": word or None}
        code = _TRANSIENT.get(answer.status) or ("unavailable" if answer.status >= _SERVER_ERROR else None)
        if code is not None:
            asked = answer.retry_after(now)
            raise Retryable(f"{where}; it will be asked again", code=code, retry_after=asked, **facts)
        advice = self._shelf.refused()
        if word or answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise Permanent(f"{where}; {advice}", code="unauthorized", **facts)
        raise Permanent(f"{where}; check the token URL", code="misconfigured", **facts)

    def _ask(self) -> Answer:
        url = self._credentials.token_url
        try:
            return self._http.call(
                "POST",
                url,
                route=urlsplit(url).path,
                timeouts=self._timeouts,
                headers={"Accept": "application/json"},
                form={**self._shelf.grant(), **self._credentials.form()},
                max_bytes=65_536,
            )
        except Permanent as err:  # what it holds up is the account, not one delivery
            code = "misconfigured" if err.code == "redirected" else err.code
            raise Permanent(str(err), code=code, http_status=err.http_status) from err
        except Ambiguous as err:
            # Lost is the answer of the token endpoint; the request that needs the token was surely not sent.
            message = f"{_where(self._credentials)}: no token, its answer was lost; it will be asked again"
            raise Retryable(message, code="not_sent", http_status=err.http_status) from err


def _token_in(answer: Answer, credentials: ClientCredentials) -> tuple[str, timedelta]:
    found = answer.json()
    text, kind = found.get("access_token"), str(found.get("token_type", "bearer"))
    if not isinstance(text, str) or not is_sendable(text) or kind.lower() != "bearer":
        message = f"{_where(credentials)}: answered {answer.status} without a bearer token; check the token URL"
        raise Retryable(message, code="unavailable", http_status=answer.status)
    return text, _life(found.get("expires_in")) or credentials.default_life


def _refresh_token_in(answer: Answer) -> str | None:
    found = answer.json().get("refresh_token")
    return found if isinstance(found, str) and is_sendable(found) else None


def _life(expires_in: object) -> timedelta | None:
    try:
        seconds = float(expires_in) if isinstance(expires_in, int | float | str) else 0.0
        return timedelta(seconds=min(seconds, _LONGEST_LIFE_S)) if seconds > 0 else None
    except (ValueError, OverflowError):
        return None


def _error_word(found: Mapping[str, Any]) -> str:
    word = found.get("error")
    return word if isinstance(word, str) and _WORD.fullmatch(word) else ""


def _where(credentials: ClientCredentials) -> str:
    parts = urlsplit(credentials.token_url)
    return f"POST {parts.hostname}{parts.path}"


def _revealed(secret: SecretStr | str) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret
