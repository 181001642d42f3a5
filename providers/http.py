"""One call over HTTP: a complete answer, or a verdict on whether the request may have been carried out.

Owns the pooled connections, TLS, time-outs, the total deadline and the cap on the body. It never retries, never follows
a redirect, never reads a proxy or a password from the environment or `.netrc`, and knows no provider: what a status
means is decided by its callers.

Source: which failure proves what was measured against a server that counts complete requests (requests 2.34.2,
urllib3 2.8.0, 2026-11-22); `tests/integration/providers/test_http_faults.py` repeats the measurement.
"""

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationValueError

from config.policy import Timeouts, TlsVersion, Verdict
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from providers.connections import TLS_VERSIONS, HandshakeFailed, Pool, Reach, SecurePool, call_ends_at
from providers.retry_after import parse_retry_after

_CHUNK = 16_384
_HOSTS = 16
_LONGEST_ID = 256

# What the word for a verdict in a spec means as an error.
VERDICT_ERRORS: Mapping[Verdict, type[ProviderError]] = {
    "retryable": Retryable,
    "permanent": Permanent,
    "ambiguous": Ambiguous,
}


@dataclass(frozen=True)
class Answer:
    """A complete answer, not a redirect.

    Attributes:
        status: 200 to 299, or 400 and above.
        headers: By name, upper and lower case alike.
        body: Decompressed; empty when the answer reports an error and its body was over the cap.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Mapping[str, Any]:
        """Return the JSON object in the body; empty when it is unreadable or no object.

        There is no error to handle: a success counts by the id in it, a refusal by its status, so an unreadable
        body and an empty one lead to the same verdict.
        """
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def at(self, path: str) -> object:
        """Return what stands at a dotted path of the body, None when nothing does."""
        found: object = self.json()
        for step in path.split("."):
            found = _inside(found, step)
        return found

    def text_at(self, path: str) -> str | None:
        """Return the text or number at a dotted path of the body, e.g. "messages.0.id"; None when there is none.

        A text that is empty, longer than 256 characters or more than one line is no id and no code either.
        """
        found = self.at(path)
        if isinstance(found, bool) or not isinstance(found, str | int):
            return None
        text = str(found)
        return text if 0 < len(text) <= _LONGEST_ID and text.isprintable() else None

    def retry_after(self, now: datetime) -> timedelta | None:
        """Return how long the server asked us to wait, None when it did not."""
        return parse_retry_after(self.headers.get("Retry-After"), date_header=self.headers.get("Date"), now=now)


def json_bytes(value: object) -> bytes:
    """Return `value` as canonical JSON: the same value gives the same bytes on every attempt and machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class HttpClient:
    """The pooled connections of one process; its threads share them. Make it after the fork, never before.

    Args:
        pool_size: Connections kept per host: as many as threads call at once.
        ca_file: Trust these authorities instead of the public ones.
        minimum_tls: No older version is spoken.
        user_agent: How we introduce ourselves.
        reach: Resolves names in place of the operating system and raises `Unreachable`; the connection goes to an
            address that it returned and to no other, while Host, SNI and certificate keep the name. For URLs that
            others choose.
    """

    def __init__(
        self,
        *,
        pool_size: int = 32,
        ca_file: Path | None = None,
        minimum_tls: TlsVersion = "1.2",
        user_agent: str = "entrega",
        reach: Reach | None = None,
    ) -> None:
        # No `requests.Session`: what it adds must not happen here. It reads proxies and .netrc, keeps cookies across
        # accounts and follows redirects; and it takes a fifth of a call's CPU.
        self._adapter = _Adapter(_trust(ca_file, minimum_tls), pool_size, reach)
        self._headers = {
            "User-Agent": user_agent,
            "Accept-Encoding": "gzip",
            "Accept": "*/*",
            "Connection": "keep-alive",
        }

    def call(  # noqa: PLR0913 - what one request is made of, all by name
        self,
        method: str,
        url: str,
        *,
        route: str,
        timeouts: Timeouts,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        form: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        max_bytes: int = 1_000_000,
    ) -> Answer:
        """Send one request, once, and return its complete answer whatever the status, redirects excepted.

        Args:
            method: "GET", "POST", ...
            url: Absolute, without user, password or query.
            route: The path as a template, e.g. "/{phone_number_id}/messages". Messages name it, never the URL.
            timeouts: For the connection, for each read, and for the whole call; the last one holds however slowly
                the bytes drip, name look-up excepted, which the operating system does not let us bound.
            headers: Sent as they are, over our own.
            body: Sent as it is; the caller names its content type.
            form: Sent as a web form instead of `body`.
            query: Goes into the URL and into no message.
            max_bytes: Most bytes of body to accept, counted after decompression.

        Raises:
            Retryable: "not_sent". No byte of the request left.
            Permanent: "certificate", the server is not the one we trust; "misconfigured", a URL or header that
                cannot be sent; "redirected", the answer sends us elsewhere.
            Ambiguous: "answer_lost". The request may have arrived and no complete answer came.
        """
        where = f"{method} {urlsplit(url).hostname}{route}"
        prepared = self._prepare(method, url, {**self._headers, **(headers or {})}, form or body, query, where)
        ends_at = call_ends_at.set(time.monotonic() + timeouts.total_s)
        try:
            return self._exchange(prepared, where, timeouts, max_bytes)
        finally:
            call_ends_at.reset(ends_at)

    def close(self) -> None:
        """Close every pooled connection."""
        self._adapter.close()

    @staticmethod
    def _prepare(  # noqa: PLR0913, PLR0917 - what one request is made of
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Mapping[str, str] | None,
        query: Mapping[str, str] | None,
        where: str,
    ) -> requests.PreparedRequest:
        prepared = requests.PreparedRequest()
        try:
            _check_sendable(url, headers)
            prepared.prepare_method(method)
            prepared.prepare_url(url, query)
            prepared.prepare_headers(headers)
            prepared.prepare_body(body, None)
        except ValueError as err:
            found = type(err).__name__
            message = f"{where}: cannot be sent ({found}); correct the base URL or the credentials of the account"
            # The cause is left out on purpose: its text quotes the header or URL, tokens included.
            raise Permanent(message, code="misconfigured") from None
        return prepared

    def _exchange(self, request: requests.PreparedRequest, where: str, timeouts: Timeouts, max_bytes: int) -> Answer:
        waits = (min(timeouts.connect_s, timeouts.total_s), min(timeouts.read_s, timeouts.total_s))
        try:
            response = self._adapter.send(request, stream=True, timeout=waits)
            with closing(response):
                _check_final(response.status_code, where)
                body = _read(response, max_bytes, where)
        except (requests.RequestException, HTTPError, http.client.HTTPException, OSError) as err:
            raise _verdict(err, where) from err
        return Answer(response.status_code, response.headers, body)


def _inside(value: object, step: str) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    return None


def _check_sendable(url: str, headers: Mapping[str, str]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("the URL begins with neither https:// nor http://")
    if parts.username is not None:
        raise ValueError("the URL holds a user name, which would replace our Authorization header")
    for value in headers.values():
        value.encode("latin-1")  # else the connection fails at it later, with the value in the traceback


def _check_final(status: int, where: str) -> None:
    if status < HTTPStatus.OK:
        raise Ambiguous(f"{where}: answered {status}, which ends no call; look the request up", http_status=status)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        message = f"{where}: answered {status}, and a redirect of a write is never followed; correct the base URL"
        raise Permanent(message, code="redirected", http_status=status)


def _read(response: requests.Response, max_bytes: int, where: str) -> bytes:
    body = bytearray()
    for chunk in response.raw.stream(_CHUNK, decode_content=True):
        body += chunk
        if len(body) > max_bytes:
            return _refuse_body(response.status_code, max_bytes, where)
    return bytes(body)


def _refuse_body(status: int, max_bytes: int, where: str) -> bytes:
    if status >= HTTPStatus.BAD_REQUEST:
        return b""  # the status says enough: a page of apologies must not turn a refusal into a doubt
    message = f"{where}: answered {status} with more than {max_bytes} bytes; the proof in it was not read"
    raise Ambiguous(message, http_status=status)


def _verdict(err: Exception, where: str) -> ProviderError:
    """Turn a failure on the wire into a verdict. Order matters: what proves most comes first."""
    chain = tuple(_chain(err))
    found = type(chain[-1]).__name__
    if _any(chain, LocationValueError, requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL):
        return Permanent(f"{where}: not a URL that can be reached ({found}); correct it", code="misconfigured")
    if _any(chain, ssl.SSLCertVerificationError):
        message = f"{where}: its certificate is not trusted ({found}); check host name, expiry and authority"
        return Permanent(message, code="certificate")
    # All of them stand for a connection that was never ready, so no byte of the request left. A plain
    # `requests.ConnectionError` proves nothing: it also covers answers that were lost.
    if _any(chain, ConnectTimeoutError, requests.ConnectTimeout, HandshakeFailed):
        return Retryable(f"{where}: not sent ({found}); check that the host is up and reachable", code="not_sent")
    return Ambiguous(f"{where}: sent, and no complete answer came ({found}); look the request up", code="answer_lost")


def _any(chain: tuple[BaseException, ...], *kinds: type[BaseException]) -> bool:
    return any(isinstance(each, kinds) for each in chain)


def _chain(err: BaseException) -> Iterator[BaseException]:
    # `__context__` is left out: it may hold an older error that the caller was handling when it called us.
    yield err
    for inner in (getattr(err, "reason", None), *err.args):
        if isinstance(inner, BaseException):
            yield from _chain(inner)


def _trust(ca_file: Path | None, minimum_tls: TlsVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)
    context.minimum_version = TLS_VERSIONS[minimum_tls]
    return context


class _Adapter(HTTPAdapter):
    def __init__(self, context: ssl.SSLContext, pool_size: int, reach: Reach | None) -> None:
        self._context = context
        self._reach = reach
        super().__init__(pool_connections=_HOSTS, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002 - the signature of requests
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **options)
        pools = {"http": Pool, "https": SecurePool}
        self.poolmanager.pool_classes_by_scheme = {
            scheme: partial(pool, reach=partial(self._reach, scheme)) if self._reach else pool
            for scheme, pool in pools.items()
        }

    def cert_verify(self, conn: object, url: str, verify: object, cert: object) -> None:
        """Leave trust to our context: requests would load its own authorities into it at every connection."""

    # What follows leaves out what no call here uses, proxies and cookies: a fifth of a call's CPU.

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *_: object, **__: object) -> Any:
        parts = urlsplit(request.url or "")
        return self.poolmanager.connection_from_host(parts.hostname, parts.port, parts.scheme)

    def request_url(self, request: requests.PreparedRequest, proxies: object) -> str:  # noqa: ARG002 - the signature of requests
        path = request.path_url
        return f"/{path.lstrip('/')}" if path.startswith("//") else path

    def build_response(self, request: requests.PreparedRequest, resp: BaseHTTPResponse) -> requests.Response:
        response = requests.Response()
        response.request, response.raw = request, resp
        response.status_code, response.headers = resp.status, CaseInsensitiveDict(resp.headers)
        return response
