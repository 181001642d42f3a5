"""Checks that a callback really came from Entrega, and says what it tells.

Source: Standard Webhooks specification 1.0.0 (signature scheme v1: HMAC-SHA256 over "id.timestamp.body"), read
2026-11-22.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

_PREFIX = "whsec_"
_TOLERANCE_S = 300.0


class BadSignature(Exception):
    """A callback is not to be believed; answer it with 401 and do nothing. The message says what is wrong with it."""


def verify_callback(
    headers: Mapping[str, str],
    body: bytes,
    secret: str | Iterable[str],
    *,
    tolerance_s: float = _TOLERANCE_S,
    now: float | None = None,
) -> dict[str, Any]:
    """Return what a callback says, once it is sure that Entrega said it, and lately.

    The same event may come more than once: keep `webhook-id` and leave out those that you have seen.

    Args:
        headers: Of the request; names in any case.
        body: The raw bytes as they came, before anything parsed them.
        secret: `whsec_...`; several while a secret is being changed.
        tolerance_s: How far the clocks may be apart.
        now: Seconds since 1970; the present when left out.

    Raises:
        BadSignature: A header is missing, the time is off, no signature fits, or the body is no JSON object.
        ValueError: A secret of yours is not base64.
    """
    keys = [_key(each) for each in ([secret] if isinstance(secret, str) else secret)]
    named = {name.lower(): value for name, value in headers.items()}
    id_, stamp, listed = (named.get(f"webhook-{each}", "") for each in ("id", "timestamp", "signature"))
    if not (id_ and stamp and listed):
        raise BadSignature("webhook-id, webhook-timestamp or webhook-signature is missing")
    if "." in id_:  # it ends the id in what is signed, so that two ids could stand for the same bytes
        raise BadSignature("webhook-id must not hold a dot")
    _check_time(stamp, time.time() if now is None else now, tolerance_s)
    signed = f"{id_}.{stamp}.".encode() + body
    expected = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    # Every pair is compared, whatever was found before: the time taken tells nothing.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in _signatures(listed)]
    if not any(matches):
        raise BadSignature("no signature fits: another secret, or a body that was changed on its way")
    return _event(body)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except binascii.Error as err:
        raise ValueError("a callback secret is whsec_ and base64; this one is not") from err
    if not key:
        raise ValueError("a callback secret must not be empty")
    return key


def _check_time(stamp: str, now: float, tolerance_s: float) -> None:
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):  # noqa: PLR2004 - seconds, for a very long time
        raise BadSignature("webhook-timestamp is not a number of seconds")
    if abs(now - int(stamp)) > tolerance_s:
        raise BadSignature("webhook-timestamp is too far from now: an old request sent again, or a wrong clock")


def _signatures(listed: str) -> list[bytes]:
    found = []
    for each in listed.split():
        version, _, signature = each.partition(",")
        if version == "v1":
            found.append(_decoded(signature))
    return found


def _decoded(signature: str) -> bytes:
    try:
        return base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _event(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except ValueError as err:
        raise BadSignature("the body is signed, but it is not JSON") from err
    if not isinstance(event, dict):
        raise BadSignature("the body is signed, but it is not a JSON object")
    return event
