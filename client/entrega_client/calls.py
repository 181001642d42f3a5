"""One call to Entrega with retries: the same bytes each time, so that a repeat is recognised and has no second effect.

A call is repeated after a time-out, a lost connection, 429 and 5xx, and never after another 4xx. One deadline ends all
of it, pauses included.
"""

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from entrega_client.errors import EntregaError, Unavailable, UnexpectedAnswer, error_of

_AGAIN = frozenset({429, 500, 502, 503, 504})
_CONNECT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_MOST_BYTES = 20_000_000
# Entrega itself said so: nothing was accepted.
_SURELY_NOT = frozenset({"too_far_behind", "busy", "ledger_away"})


@dataclass(frozen=True)
class Clock:
    """Time and chance, so that tests need neither."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Request:
    """What goes out, the same on every try.

    Attributes:
        key: The idempotency key; None where keys travel in the body, or the call may be repeated anyway.
        timeout_s: Longest silence of one try.
    """

    method: str
    path: str
    body: bytes | None = None
    key: str | None = None
    timeout_s: float = 10.0


class _Bearer(requests.auth.AuthBase):
    """Sends the API key. As `auth`, because requests would put a password of ~/.netrc in place of a mere header."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


@dataclass(frozen=True)
class _Failure:
    """A try that may be repeated.

    Attributes:
        surely_not: Nothing was accepted by it.
        asked_s: The Retry-After that came with it.
    """

    message: str
    code: str
    surely_not: bool
    asked_s: float | None = None
    request_id: str | None = None


class Line:
    """The way to one Entrega."""

    def __init__(self, url: str, key: str, *, language: str, deadline_s: float, clock: Clock) -> None:
        self._url = url.rstrip("/")
        self._deadline_s = deadline_s
        self._clock = clock
        self._session = requests.Session()
        self._session.auth = _Bearer(key)
        self._session.headers.update({"Accept": "application/json", "Accept-Language": language})

    @property
    def clock(self) -> Clock:
        """The clock of this line."""
        return self._clock

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def call(self, request: Request, *, deadline_s: float | None = None) -> Any:
        """Return the parsed answer.

        Raises:
            Unavailable: No usable answer came within the deadline.
            EntregaError: Entrega refused; see the kinds of it.
        """
        end = self._clock.now() + (self._deadline_s if deadline_s is None else deadline_s)
        tries, may_have_arrived = 0, False
        while True:
            tried = self._try(request, max(0.05, end - self._clock.now()))
            if not isinstance(tried, _Failure):
                return tried
            tries, may_have_arrived = tries + 1, may_have_arrived or not tried.surely_not
            pause = _pause(tries, tried.asked_s, self._clock.chance())
            if self._clock.now() + pause >= end:
                raise _given_up(tried, request, tries, may_have_arrived=may_have_arrived)
            self._clock.sleep(pause)

    def _try(self, request: Request, left_s: float) -> Any:
        try:
            status, headers, raw = self._send(request, left_s)
        except ValueError:  # the address or a header is wrong; that is a RequestException too
            raise
        except (requests.RequestException, HTTPError) as err:
            return _unanswered(err)
        request_id = headers.get("X-Request-Id")
        body = _parsed(raw)
        if body is None and "Content-Type" not in headers:  # cut within its headers: that reads like an empty answer
            return _Failure("no answer (cut short)", "answer_lost", surely_not=False)
        if status in _AGAIN:
            return _failure(status, body, headers)
        if status >= 300:  # noqa: PLR2004 - everything but a success; redirects are not followed with a key
            raise error_of(status, body, request_id)
        if body is None:
            message = f"HTTP {status} without JSON; is the address right?"
            raise UnexpectedAnswer(message, code="unexpected_answer", request_id=request_id)
        return body

    def _send(self, request: Request, left_s: float) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": "application/json"} if request.body is not None else {}
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        end = self._clock.now() + left_s
        with self._session.request(
            request.method,
            self._url + request.path,
            data=request.body,
            headers=headers,
            timeout=(min(_CONNECT_S, left_s), min(request.timeout_s, left_s)),
            allow_redirects=False,
            stream=True,
        ) as response:
            return response.status_code, response.headers, self._read(response, end)

    def _read(self, response: requests.Response, end: float) -> bytes:
        pieces, size = list[bytes](), 0
        # As it comes in: a server that lets its answer drip is left at the deadline, not at the last byte.
        while piece := response.raw.read1(65536, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > _MOST_BYTES or self._clock.now() > end:
                raise requests.exceptions.ReadTimeout("the answer is too long or too slow")
        if response.raw.length_remaining:  # `read1` says nothing of an answer that was cut
            raise requests.exceptions.ConnectionError("the answer was cut")
        return b"".join(pieces)


def json_body(value: object) -> bytes:
    """Return a body's bytes.

    Raises:
        ValueError: A number is not finite, or a text cannot be UTF-8.
        TypeError: A value has no form in JSON.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _parsed(raw: bytes) -> Any:
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _unanswered(err: Exception) -> _Failure:
    cause = getattr(err.args[0] if err.args else None, "reason", None)
    if isinstance(cause, NewConnectionError | ConnectTimeoutError):
        return _Failure("no connection", "unreachable", surely_not=True)
    return _Failure(f"no answer ({type(err).__name__})", "answer_lost", surely_not=False)


def _failure(status: int, body: Any, headers: Mapping[str, str]) -> _Failure:
    error = error_of(status, body, headers.get("X-Request-Id"))
    told = isinstance(body, dict) and not isinstance(error, UnexpectedAnswer)
    surely_not = told and error.code in _SURELY_NOT
    asked_s = _seconds(headers.get("Retry-After"))
    return _Failure(f"HTTP {status}: {error}", error.code, surely_not, asked_s, error.request_id)


def _seconds(retry_after: str | None) -> float | None:
    """Return a Retry-After in seconds, or None. Source: RFC 9110, 10.2.3."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _pause(tries: int, asked_s: float | None, chance: float) -> float:
    # The wait that was asked for is never shortened; some more, so that many clients do not come back at once.
    own = min(_FIRST_PAUSE_S * 2.0 ** min(tries - 1, 10), _LONGEST_PAUSE_S)
    return asked_s + own * chance if asked_s is not None else own * (0.5 + chance / 2)


def _given_up(last: _Failure, request: Request, tries: int, *, may_have_arrived: bool) -> EntregaError:
    again = f"; call again with the same body and key={request.key!r}" if request.key else ""
    return Unavailable(
        f"{request.method} {request.path} had no usable answer in {tries} tries, the last: {last.message}{again}",
        code=last.code,
        request_id=last.request_id,
        key=request.key,
        may_have_arrived=may_have_arrived,
        retry_after_s=last.asked_s,
    )
