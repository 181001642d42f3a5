"""A stand-in for the WhatsApp Cloud API: sends messages nowhere, answers and refuses as the Graph API does.

Checked in Meta's order of importance: token, version and path, phone number id, shape of the JSON. No window, template
registry or pair limit: plan the error code (`{"graph_error": 131056, "status": 429}`) where one is wanted.
Source: WhatsApp Cloud API, "Send messages", "Error codes" and "Messaging health status" (read 2026-11-22).
"""

import re
import secrets
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sandbox.faults import Fault
from sandbox.graph_webhooks import Teller, Telling, message_change, message_id, preference_change
from sandbox.http_standin import Answer, Call

_PATH = re.compile(r"/v(\d+)\.0/([^/]+)(/messages)?")
_LONGEST_TEXT = 4096
_LONGEST_CALLBACK = 512
_BUSINESS_SCOPED_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9.]{1,128}")
_PHONE = re.compile(r"\+?[\d\s()-]{6,25}")
_TYPES = frozenset(
    {"text", "image", "video", "audio", "document", "sticker", "location", "contacts"}
    | {"reaction", "interactive", "template"},
)
_TITLES = {
    2: "Service temporarily unavailable",
    4: "Application request limit reached",
    100: "Invalid parameter",
    190: "Invalid OAuth access token - Cannot parse access token",
    368: "Temporarily blocked for policies violations",
    80007: "Rate limit issues",
    130429: "Rate limit hit",
    131000: "Something went wrong",
    131008: "Required parameter is missing",
    131009: "Parameter value is not valid",
    131016: "Service unavailable",
    131026: "Message undeliverable",
    131031: "Account has been locked",
    131042: "Business eligibility payment issue",
    131047: "Re-engagement message",
    131048: "Spam rate limit hit",
    131056: "(Business Account, Consumer Account) pair rate limit hit",
    132001: "Template name does not exist in the translation",
    132015: "Template is paused",
}


@dataclass(frozen=True)
class GraphCredentials:
    """What the stand-in accepts; invented, and worth nothing anywhere else."""

    access_token: str = "sandbox-graph-token"  # noqa: S105 - invented
    phone_number_id: str = "100000000000001"
    app_secret: str = "sandbox-app-secret"  # noqa: S105 - invented
    verify_token: str = "sandbox-verify-token"  # noqa: S105 - invented


class GraphApi:
    """The Graph API's meaning; state in memory, one lock.

    Settings: `webhooks`, see `sandbox.graph_webhooks.Telling`; what is left out stays as it was.
    """

    settings: Collection[str] = ("webhooks",)

    def __init__(self, credentials: GraphCredentials | None = None, telling: Telling | None = None) -> None:
        self._credentials = credentials or GraphCredentials()
        self._lock = threading.Lock()
        self._usual = telling or Telling()
        self._teller = Teller(self._usual)
        self.reset()

    def reset(self) -> None:
        """Forget every message, and what was to be told of it."""
        self._teller.forget()
        self._teller.telling = self._usual
        with self._lock:
            self._sent: list[dict[str, object]] = []
            self._requests: Counter[str | None] = Counter()
            self._expired = False

    def configure(self, settings: Mapping[str, object]) -> None:
        """Change how webhooks are told; raises ValueError for a wrong value."""
        webhooks = settings.get("webhooks", {})
        if not isinstance(webhooks, dict):
            raise ValueError("webhooks are a JSON object")  # noqa: TRY004 - a wrong setting, whatever is wrong with it
        self._teller.telling = Telling.model_validate(self._teller.telling.model_dump() | webhooks)

    def fall_silent(self) -> None:
        """Tell no more of what was sent so far."""
        self._teller.forget()

    def hear(self, value: object) -> None:
        """Let a person write, or say what they want of marketing, and tell it.

        Shape: {"from": "5511999990001", "text": "Oi"}, {"from": ..., "message": {"type": "button", "button": {...}}}
            or {"from": ..., "marketing": "stop"}

        Raises:
            ValueError: It is none of these.
        """
        if not isinstance(value, dict) or not str(value.get("from", "")).isdigit():
            raise ValueError('wanted {"from": digits} and one of text, message, marketing')
        phone, me = str(value["from"]), self._credentials.phone_number_id
        if "marketing" in value:
            self._teller.tell(preference_change(me, phone, str(value["marketing"])))
            return
        message = value.get("message") or {"type": "text", "text": {"body": str(value.get("text", ""))}}
        if not isinstance(message, dict):
            raise ValueError("message is a JSON object")  # noqa: TRY004 - as above
        self._teller.tell(message_change(me, phone, message))

    def labels(self, call: Call) -> Collection[str]:
        """Return the operation, and the delivery id in `biz_opaque_callback_data`."""
        return (_operation(call), _callback(call.parsed) or "")

    def is_limited(self, call: Call) -> bool:
        """Tell whether the request counts: sends do."""
        return _operation(call) == "messages"

    def see(self, call: Call) -> None:
        """Count a send for its delivery, whatever becomes of it."""
        with self._lock:
            self._requests[_callback(call.parsed)] += 1

    def answer(self, call: Call) -> Answer:
        """Carry a request out."""
        if not self._is_authorized(call):
            return graph_error(190, status=401)
        found = _PATH.fullmatch(call.path)
        if found is None:
            return graph_error(2500, status=400, details=f"Unknown path components: {call.path}")
        if found[2] != self._credentials.phone_number_id:
            return graph_error(100, status=400, subcode=33, details="Object does not exist or misses permissions")
        return self._send(call) if found[3] else self._health(call)

    def error(self, fault: Fault) -> Answer:
        """Return the Graph API's error body for a planned code or status."""
        if fault.graph_error is not None:
            return graph_error(fault.graph_error, status=fault.status or 400)
        return graph_error(2 if fault.status == 503 else 131000, status=fault.status or 500)  # noqa: PLR2004 - HTTP

    def too_many(self, wait_s: float) -> Answer:
        """Return 130429. The Graph API documents no Retry-After, so none is sent."""
        return graph_error(130429, status=429, details=f"window ends in {wait_s:.1f} s")

    def expire_tokens(self) -> None:
        """Refuse the next request's token; the token is static, so only that one."""
        with self._lock:
            self._expired = True

    def effects(self) -> list[dict[str, object]]:
        """Return the messages accepted.

        Shape: {"key": "<biz_opaque_callback_data>", "wamid", "type", "at", "requests": sends seen with this key}
        """
        with self._lock:
            return [{**sent, "requests": self._requests[_as_key(sent["key"])]} for sent in self._sent]

    def _is_authorized(self, call: Call) -> bool:
        with self._lock:
            expired, self._expired = self._expired, False
        return not expired and call.bearer() == self._credentials.access_token

    def _health(self, call: Call) -> Answer:
        if call.method != "GET":
            return graph_error(100, status=400, details=f"Unsupported {call.method} request")
        me = self._credentials.phone_number_id
        if "health_status" not in ",".join(call.query.get("fields", [])).split(","):
            return Answer(200, {"id": me})
        entity = {"entity_type": "PHONE_NUMBER", "id": me, "can_send_message": "AVAILABLE"}
        return Answer(200, {"health_status": {"can_send_message": "AVAILABLE", "entities": [entity]}, "id": me})

    def _send(self, call: Call) -> Answer:
        if call.method != "POST":
            return graph_error(100, status=400, details=f"Unsupported {call.method} request")
        message = call.parsed
        wrong = wrong_message(message)
        if wrong is not None or not isinstance(message, dict):
            return wrong or graph_error(100, status=400)
        if message.get("status") == "read":
            return Answer(200, {"success": True})
        to = re.sub(r"\D", "", str(message.get("to") or "")) or str(message.get("recipient"))
        wamid = message_id(to, outgoing=True)
        key = _callback(message)
        with self._lock:
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            self._sent.append({"key": key, "wamid": wamid, "type": message.get("type", "text"), "at": now})
        self._teller.tell_sent({**message, "phone_number_id": self._credentials.phone_number_id}, wamid)
        return Answer(200, _accepted(message, wamid))


def wrong_message(message: object) -> Answer | None:
    """Return the refusal that a message deserves, or None when its shape is right."""
    if not isinstance(message, dict):
        return graph_error(100, status=400, details="The body is not a JSON object")
    if message.get("messaging_product") != "whatsapp":
        return graph_error(100, status=400, details="The parameter messaging_product is required.")
    if message.get("status") == "read":
        return None if message.get("message_id") else graph_error(131008, status=400, details="message_id")
    return _wrong_recipient(message) or _wrong_content(message)


def _wrong_recipient(message: Mapping[str, object]) -> Answer | None:
    to, recipient = message.get("to"), message.get("recipient")
    if not to and not recipient:
        return graph_error(131008, status=400, details="to or recipient")
    pattern, value = (_PHONE, to) if to else (_BUSINESS_SCOPED_ID, recipient)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        return graph_error(131009, status=400, details="to or recipient")
    return None


def _wrong_content(message: Mapping[str, object]) -> Answer | None:
    kind = message.get("type", "text")
    content = message.get(str(kind))
    if kind not in _TYPES:
        return graph_error(131009, status=400, details="type")
    if not content:
        return graph_error(131008, status=400, details=str(kind))
    if len(str(message.get("biz_opaque_callback_data") or "")) > _LONGEST_CALLBACK:
        return graph_error(100, status=400, details="biz_opaque_callback_data is too long")
    if not isinstance(content, dict):
        return None if kind == "contacts" else graph_error(131009, status=400, details=str(kind))
    return _wrong_object(str(kind), content)


def _wrong_object(kind: str, content: Mapping[str, object]) -> Answer | None:
    if kind == "text" and not content.get("body"):
        return graph_error(131008, status=400, details="text.body")
    if kind == "text" and len(str(content["body"])) > _LONGEST_TEXT:
        return graph_error(100, status=400, details=f"text.body must be at most {_LONGEST_TEXT} characters long")
    if kind == "template" and not (content.get("name") and content.get("language")):
        return graph_error(131008, status=400, details="template.name and template.language")
    return None


def graph_error(code: int, *, status: int, subcode: int | None = None, details: str | None = None) -> Answer:
    """Return the Graph API's error body.

    Shape: {"error": {"message": "(#131056) ...", "type": "OAuthException", "code", "error_data", "fbtrace_id"}}
    """
    error: dict[str, object] = {
        "message": f"(#{code}) {_TITLES.get(code, 'Planned error')}",
        "type": "OAuthException",
        "code": code,
        "fbtrace_id": secrets.token_urlsafe(9),
    }
    if subcode is not None:
        error["error_subcode"] = subcode
    if details is not None:
        error["error_data"] = {"messaging_product": "whatsapp", "details": details}
    return Answer(status, {"error": error})


def _accepted(message: Mapping[str, object], wamid: str) -> dict[str, object]:
    to = message.get("to")
    contact = {"input": to or message.get("recipient")}
    contact |= {"wa_id": re.sub(r"\D", "", str(to))} if to else {"user_id": message.get("recipient")}
    entry = {"id": wamid}
    if message.get("type") == "template":
        entry["message_status"] = "accepted"
    return {"messaging_product": "whatsapp", "contacts": [contact], "messages": [entry]}


def _operation(call: Call) -> str:
    found = _PATH.fullmatch(call.path)
    if found is None:
        return "unknown"
    return "messages" if found[3] else "phone_number"


def _callback(message: object) -> str | None:
    return _as_key(message.get("biz_opaque_callback_data")) if isinstance(message, dict) else None


def _as_key(value: object) -> str | None:
    return str(value) if value else None
