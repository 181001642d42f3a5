"""WhatsApp through Meta's Cloud API: sends one message and keeps the proof.

Meta offers neither an idempotency key nor a look-up, so a lost answer stays uncertain until a status webhook echoes
our delivery id. This module never retries; which code means what stands in `verdicts`, the body in `envelope`.

Source: WhatsApp Cloud API, send messages and health status, Sep-2026, read 2026-11-22.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import SecretStr

from config.policy import Spec
from delivery.commands import SendWhatsApp
from delivery.errors import Ambiguous, Permanent
from delivery.outcomes import Receipt, Usage
from delivery.ports import Order, Wire
from providers.http import Answer, HttpClient, json_bytes
from providers.oauth import ApiKey
from providers.usage import read_usage
from providers.whatsapp_cloud.envelope import message_body
from providers.whatsapp_cloud.verdicts import refusal

_KIND = "send_whatsapp"
_JSON = {"Accept": "application/json", "Content-Type": "application/json"}
_VERSIONED = re.compile(r"/v[0-9]+\.[0-9]+$")
_WORD = re.compile(r"[A-Za-z_]{1,40}")


def _utc_now() -> datetime:
    return datetime.now(UTC)


class WhatsAppCloud:
    """One phone number of one WhatsApp account.

    Args:
        spec: The filled-in form; its operation "send_whatsapp" is carried out.
        base_url: E.g. "https://graph.facebook.com"; the spec's version is added unless it ends in one.
        phone_number_id: Meta's id of the sender, digits.
        token: A system-user token.
        http: The pooled session.
        now: The clock that a Retry-After date is held against when the answer has no date.

    Raises:
        Permanent: The token is empty or cannot stand in a header.
    """

    def __init__(  # noqa: PLR0913 - what one sender stands on, all by name
        self,
        *,
        spec: Spec,
        base_url: str,
        phone_number_id: str,
        token: SecretStr | str,
        http: HttpClient,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._operation = spec.operations[_KIND]
        self._probe = spec.probe
        self._usage_headers = spec.limits.usage
        self._base_url = _versioned(base_url.rstrip("/"), spec.api_version)
        self._phone_number_id = phone_number_id
        self._proof = ApiKey(token, header="Authorization", scheme="Bearer ").headers()
        self._http = http
        self._now = now

    def send(self, order: Order) -> Receipt:
        """Send the message; the bytes are the same on every attempt.

        Returns:
            The wamid. It proves that Meta took the message, not that it reached the person.

        Raises:
            Retryable: Surely not sent.
            Permanent: Will never be sent as it is.
            Ambiguous: May have been sent; only a status webhook can tell.
        """
        operation = self._operation
        body = json_bytes(message_body(_message(order), order.delivery_id))
        return self._receipt(self._call(operation.method, operation.path, body=body))

    def preview(self, order: Order) -> Wire:
        """Return the request that sends the message, without credentials.

        Raises:
            Permanent: Will never be sent as it is.
        """
        operation = self._operation
        path = operation.path.replace("{phone_number_id}", self._phone_number_id)
        body = message_body(_message(order), order.delivery_id)
        return Wire(operation.method, self._base_url + path, {**_JSON, **operation.headers}, body)

    def look_up(self, order: Order) -> Receipt | None:
        """Refuse: the Cloud API has no way to ask; only its status webhooks tell, and they come by themselves.

        Raises:
            Ambiguous: Always.
        """
        raise Ambiguous(f"Meta offers no look-up for {order.command.kind}; its status webhooks tell", code="no_look_up")

    def probe(self) -> str:
        """Ask Meta whether this number can send now.

        Returns:
            "AVAILABLE", or "LIMITED" with the parts and codes that limit it.

        Raises:
            ProviderError: It cannot; the message says where to look.
        """
        answer = self._call(self._probe.method, self._probe.path, query=self._probe.query)
        state = answer.text_at("health_status.can_send_message")
        causes = ", ".join(_causes(answer))
        if state == "BLOCKED":
            message = f"the number cannot send ({causes}); open WhatsApp Manager, overview, and follow the error codes"
            raise Permanent(message, code="account_blocked", http_status=answer.status)
        if state is None or not _WORD.fullmatch(state):
            raise Ambiguous("Meta answered without the number's health; try again", http_status=answer.status)
        return f"{state} ({causes})" if causes else state

    def _call(
        self, method: str, path: str, *, body: bytes | None = None, query: Mapping[str, str] | None = None
    ) -> Answer:
        operation = self._operation
        answer = self._http.call(
            method,
            self._base_url + path.replace("{phone_number_id}", self._phone_number_id),
            route=path,
            timeouts=operation.timeouts,
            headers={**_JSON, **operation.headers, **self._proof},
            body=body,
            query=query,
            max_bytes=operation.max_response_bytes,
        )
        rule = operation.status(answer.status)
        if rule.verdict != "success":
            raise refusal(answer, rule, now=self._now(), usage=self._usage(answer))
        return answer

    def _receipt(self, answer: Answer) -> Receipt:
        wamid = answer.text_at(self._operation.success_id)
        if wamid is None:
            message = f"WhatsApp answered {answer.status} without a message id; wait for a status webhook"
            raise Ambiguous(message, code="answer_lost", http_status=answer.status)
        # `contacts[].wa_id` and `.input` are a person's number: they stay out of the receipt.
        status = answer.text_at("messages.0.message_status")
        detail = {"message_status": status} if status and _WORD.fullmatch(status) else {}
        return Receipt(wamid, detail, answer.status, self._usage(answer))

    def _usage(self, answer: Answer) -> Usage | None:
        return read_usage(answer.headers, self._usage_headers, self._now())


def _message(order: Order) -> SendWhatsApp:
    if not isinstance(order.command, SendWhatsApp):
        raise Permanent(f"WhatsApp sends messages and cannot carry out {order.command.kind}", code="misconfigured")
    return order.command


def _versioned(base_url: str, version: str | None) -> str:
    if _VERSIONED.search(urlsplit(base_url).path) or version is None:
        return base_url
    return f"{base_url}/{version}"


def _causes(answer: Answer) -> Iterator[str]:
    """Yield who limits the number and why, e.g. "WABA LIMITED 141006"; Meta's prose is left out."""
    entities = answer.at("health_status.entities")
    for place, _ in enumerate(entities if isinstance(entities, list) else ()):
        at = f"health_status.entities.{place}"
        kind, state = answer.text_at(f"{at}.entity_type"), answer.text_at(f"{at}.can_send_message")
        if kind and state and state != "AVAILABLE" and _WORD.fullmatch(kind) and _WORD.fullmatch(state):
            code = answer.text_at(f"{at}.errors.0.error_code") or ""
            yield f"{kind} {state} {code if code.isdigit() else ''}".strip()
