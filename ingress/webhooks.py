"""The door for providers: proof first, then one transaction, then 200. The work is done afterwards, by a worker.

Whatever is not proved changes nothing and learns nothing. A provider repeats what is not answered with 200, so a ledger
that is away costs no event. What a form says of a provider's webhooks stands in its section `webhook`.
"""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from config.policy import Signature, Spec, Webhook
from config.settings import Settings
from config.spec_webhook import Network
from delivery.inbound import Told, recent
from ingress.bodies import BodyReader
from ingress.problems import Problem
from ingress.sampling import Sampler
from ingress.strangers import PROVED, Strangers
from ingress.strict_json import UnacceptableJson, parse_json
from providers.described_webhook import described_events
from providers.whatsapp_cloud.webhooks import Reader
from tasks.app import UPKEEP_QUEUE

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)
_sampler = Sampler()

_CHALLENGE = re.compile(r"[A-Za-z0-9._~-]{1,200}")
# Events of many webhooks are worked on together: none waits longer than this for its hint.
_HINT_AFTER_S = 0.1
_RETRY_S = 5
# A thousand updates in one body, each with all that a provider may say of it.
_MOST_VALUES = 200_000


@dataclass(frozen=True)
class _Door:
    """One account's webhook, looked up."""

    account: str
    settings: Settings
    spec: Spec
    form: Webhook


def create_webhooks(app: "Entrega", bodies: BodyReader, strangers: Strangers) -> APIRouter:
    """Return the routes `/webhooks/{service}/{account}`. They need no API key: the proof is the provider's own.

    Args:
        bodies: Count a body as held once it is proved.
        strangers: Until then its sender is one of these.
    """
    router = APIRouter(prefix="/webhooks", include_in_schema=False)
    bell = _Bell(lambda: app.hints.wake("absorb", queue=UPKEEP_QUEUE))

    @router.get("/{service}/{account}")
    async def verify(service: str, account: str, request: Request) -> Response:
        """Answer the challenge by which a provider makes sure that this address is ours."""
        door = await strangers.in_thread(_door, app, service, account)
        _check_network(door, request)
        query = request.query_params
        tokens = door.settings.secrets(door.form.verify_token) if door.form.verify_token else ()
        if query.get("hub.mode") != "subscribe" or not _is_one_of(query.get("hub.verify_token", ""), tokens):
            raise _refused(door, Problem("unwelcome"), "wrong verify token")
        challenge = query.get("hub.challenge", "")
        if not _CHALLENGE.fullmatch(challenge):
            raise _refused(door, Problem("invalid_request"), "no challenge that can be echoed")
        return PlainTextResponse(challenge, headers={"X-Content-Type-Options": "nosniff"})

    @router.post("/{service}/{account}")
    async def receive(service: str, account: str, request: Request) -> Response:
        """Store what a provider tells; 200 once it is stored."""
        door = await strangers.in_thread(_door, app, service, account)
        _check_network(door, request)
        secrets = door.settings.secrets(door.form.signature.secret)
        if not secrets:  # fail closed, and let the provider repeat until the secret is set
            unset = Problem("secret_unset", retry_after_s=_RETRY_S)
            raise _refused(door, unset, f"{door.form.signature.secret} is not set")
        proof = _proof(door, request)
        async with strangers.bodies.reading(request, types=None, max_bytes=door.form.max_bytes) as body:
            if not await strangers.in_thread(is_signed, body, proof, door.form.signature, secrets):
                raise _refused(door, Problem("unsigned"), "wrong signature")
        setattr(request.state, PROVED, True)
        with bodies.holding(len(body)):
            if await run_in_threadpool(_keep, app, door, body):
                bell.ring()
        return PlainTextResponse("stored")

    return router


class _Bell:
    """Wakes a worker once for everything that came in since it was last rung."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._is_rung = False

    def ring(self) -> None:
        """Wake a worker a moment from now; call from the event loop."""
        if not self._is_rung:
            self._is_rung = True
            asyncio.get_running_loop().call_later(_HINT_AFTER_S, self._ended)

    def _ended(self) -> None:
        self._is_rung = False  # before it is sent: what comes from now on needs a hint of its own
        asyncio.get_running_loop().run_in_executor(None, self._wake)


def is_signed(body: bytes, proof: bytes, form: Signature, secrets: Sequence[str]) -> bool:
    """Tell whether a header proves that the body was sent by who knows one of the secrets, in constant time."""
    matches = [hmac.compare_digest(proof, signature(body, form, each)) for each in secrets]
    return any(matches)


def signature(body: bytes, form: Signature, secret: str) -> bytes:
    """Return the header's value for a body."""
    digest = hmac.digest(secret.encode(), body, getattr(hashlib, form.algorithm))
    filled = form.format.replace("{hex}", digest.hex()).replace("{base64}", base64.b64encode(digest).decode())
    return filled.encode()


def _door(app: "Entrega", service: str, account: str) -> _Door:
    name, spec = f"{service}:{account}", app.specs.get(service)
    if spec is None or spec.webhook is None or name not in app.accounts:
        raise Problem("not_found")
    try:
        return _Door(name, app.accounts.settings(name), spec, spec.webhook)
    except LookupError as err:  # fail closed, and let the provider repeat
        _warn(name, 503, str(err))
        raise Problem("secret_unset", retry_after_s=_RETRY_S) from None


def _check_network(door: _Door, request: Request) -> None:
    networks = door.form.networks
    if networks and not (request.client and _is_in(request.client.host, networks)):
        raise _refused(door, Problem("unwelcome"), "it came from another network")


def _is_in(host: str, networks: Iterable[Network]) -> bool:
    try:
        address = ip_address(host)
    except ValueError:  # a proxy that is trusted passed on something else
        return False
    return any(address in each for each in networks)


def _proof(door: _Door, request: Request) -> bytes:
    header = door.form.signature.header.lower().encode()
    proofs = [value for name, value in request.headers.raw if name == header]
    # Before the body is read: what cannot be a signature needs no body to be refused.
    if len(proofs) != 1 or not _form_of(door.form.signature).fullmatch(proofs[0]):
        raise _refused(door, Problem("unsigned"), "no signature, several, or none of the right form")
    return proofs[0]


@cache
def _form_of(form: Signature) -> re.Pattern[bytes]:
    """Return what every signature of this form looks like."""
    size = hashlib.new(form.algorithm).digest_size
    base64_chars, padding = (4 * size + 2) // 3, -size % 3
    filled = re.escape(form.format)
    filled = filled.replace(re.escape("{hex}"), f"[0-9a-f]{{{2 * size}}}")
    filled = filled.replace(re.escape("{base64}"), f"[A-Za-z0-9+/]{{{base64_chars}}}={{{padding}}}")
    return re.compile(filled.encode())


def _keep(app: "Entrega", door: _Door, body: bytes) -> int:
    told = recent(_told(door, body), since=datetime.now(UTC) - door.form.oldest)
    new = app.inbound.keep(door.account, told.events)
    _log.info("webhook", account=door.account, events=len(told.events), new=new, skipped=dict(told.skipped))
    return new


def _told(door: _Door, body: bytes) -> Told:
    try:
        parsed = parse_json(body, whole_texts=False, most_values=_MOST_VALUES)
    except UnacceptableJson as err:
        raise _refused(door, Problem("invalid_json", why=err.why), f"no acceptable JSON: {err}") from None
    if door.form.shape is not None:
        return described_events(parsed, door.form.shape)
    return Reader(door.form, door.settings.whatsapp_phone_number_id, datetime.now(UTC)).read(parsed)


def _is_one_of(word: str, tokens: Sequence[str]) -> bool:
    matches = [hmac.compare_digest(word.encode(errors="replace"), each.encode()) for each in tokens]
    return any(matches)


def _refused(door: _Door, problem: Problem, reason: str) -> Problem:
    """Note for the operator why a webhook is refused, and return what the sender is told."""
    _warn(door.account, problem.status, reason)
    return problem


def _warn(account: str, status: int, reason: str) -> None:
    so_far = _sampler.count(f"{account} {reason}")
    if so_far is not None:
        _log.warning("webhook_refused", account=account, status=status, reason=reason, so_far_in_minute=so_far)
