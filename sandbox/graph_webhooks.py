"""The webhooks of the stand-in Graph API: the shapes that Meta sends, and a sender as unruly as Meta's.

The sender signs, puts up to 1,000 updates into one body, may shuffle and repeat them, and repeats what is not answered
with 200. Its thread lives as long as something is to be told.

Source: WhatsApp Cloud API, webhooks overview and the references of `messages`, `statuses` and `user_preferences`,
Sep-2026, read 2026-11-22.
"""

import base64
import hashlib
import heapq
import hmac
import http.client
import itertools
import json
import random
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, object]

WABA_ID = "200000000000002"
_DISPLAY_NUMBER = "5511400000000"
_PATIENCE_S, _LONGEST_PAUSE_S = 10.0, 30.0
_TITLES = {131026: "Message undeliverable", 131049: "This message was not delivered to maintain healthy ecosystem"}


class Telling(BaseModel):
    """Where webhooks go and how unruly they are.

    Attributes:
        url: The receiver; nothing is told while it is unset.
        app_secret: What they are signed with.
        steps: The statuses of each message that is sent from now on.
        code: Meta's code of a `failed` step.
        step_s: Time between two steps.
        repeat: How often each update is told.
        shuffle: Whether updates that are due within the same second are told in any order.
        most: Updates in one body.
        every_s: Time between two bodies; what comes due meanwhile travels together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None
    app_secret: str = ""
    steps: tuple[Literal["sent", "delivered", "read", "played", "failed"], ...] = ("sent", "delivered", "read")
    code: int = 131026
    step_s: float = Field(default=0.5, ge=0)
    repeat: int = Field(default=1, ge=1, le=100)
    shuffle: bool = False
    most: int = Field(default=1000, ge=1, le=1000)
    every_s: float = Field(default=0.0, ge=0, le=5)


class Teller:
    """Tells updates later. Safe to use from many threads."""

    def __init__(self, telling: Telling) -> None:
        self.telling = telling
        self._lock = threading.Condition()
        self._later: list[tuple[float, int, Json]] = []
        self._number = itertools.count()
        self._thread: threading.Thread | None = None
        self._forgotten = 0  # how often: what was under way at that moment does not come back
        self._rng = random.Random(7)  # noqa: S311 - unruly, not secret

    def forget(self) -> None:
        """Drop what was not told yet, and wait until nobody tells any more."""
        with self._lock:
            self._later.clear()
            self._forgotten += 1
            self._lock.notify()
            thread = self._thread
        if thread is not None:
            thread.join(_PATIENCE_S)

    def tell_sent(self, message: Mapping[str, object], wamid: str) -> None:
        """Plan the steps of a message that was accepted."""
        telling = self.telling
        for place, step in enumerate(telling.steps, start=1):
            self.tell(status_change(message, wamid, step, code=telling.code), after_s=place * telling.step_s)

    def tell(self, change: Json, *, after_s: float = 0.0) -> None:
        """Plan one change, `repeat` times."""
        telling = self.telling
        if telling.url is None:
            return
        with self._lock:
            for _ in range(telling.repeat):
                jitter = self._rng.random() if telling.shuffle else 0.0
                heapq.heappush(self._later, (time.monotonic() + after_s + jitter, next(self._number), change))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._lock.notify()

    def _work(self) -> None:
        pause_s = 0.25
        while (due := self._due()) is not None:
            before = self._forgotten
            if post(self.telling, [change for _, _, change in due]) == 200:  # noqa: PLR2004 - HTTP
                pause_s = 0.25
                time.sleep(self.telling.every_s)
                continue
            with self._lock:
                for at, number, change in due if before == self._forgotten else ():
                    heapq.heappush(self._later, (max(at, time.monotonic()) + pause_s, number, change))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _due(self) -> list[tuple[float, int, Json]] | None:
        """Wait for what is due and return it; None when nothing is left, which ends the thread."""
        with self._lock:
            while self._later:
                wait_s = self._later[0][0] - time.monotonic()
                if wait_s > 0:
                    self._lock.wait(wait_s)
                    continue
                now = time.monotonic()
                due: list[tuple[float, int, Json]] = []
                while self._later and self._later[0][0] <= now and len(due) < self.telling.most:
                    due.append(heapq.heappop(self._later))
                return due
            self._thread = None
            return None


def post(telling: Telling, changes: Sequence[Json]) -> int:
    """Send one signed webhook; return the HTTP status, or 0 when no answer came."""
    body = wire_bytes(envelope(changes))
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": proof(body, telling.app_secret)}
    target = urlsplit(telling.url or "")
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=_PATIENCE_S)
    try:
        connection.request("POST", target.path, body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def wire_bytes(body: Json) -> bytes:
    """Return JSON as Meta writes it: ASCII with lower-case escapes, and slashes escaped."""
    return json.dumps(body, separators=(",", ":")).replace("/", "\\/").encode("ascii")


def proof(body: bytes, app_secret: str) -> str:
    """Return the value of X-Hub-Signature-256."""
    return "sha256=" + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()


def envelope(changes: Iterable[Json]) -> Json:
    """Return the body of one webhook."""
    entry = {"id": WABA_ID, "time": int(time.time()), "changes": list(changes)}
    return {"object": "whatsapp_business_account", "entry": [entry]}


def status_change(message: Mapping[str, object], wamid: str, step: str, *, code: int = 131026) -> Json:
    """Return one step of a message.

    Args:
        message: As it was sent to `/messages`.
        code: Meta's code, of a `failed` step.
    """
    to, phone_number_id = message.get("to"), str(message.get("phone_number_id", ""))
    digits = "".join(each for each in str(to or "") if each.isdigit())
    status: Json = {"id": wamid, "status": step, "timestamp": str(int(time.time()))}
    status |= {"recipient_id": digits} if to else {}
    if message.get("biz_opaque_callback_data"):
        status["biz_opaque_callback_data"] = message["biz_opaque_callback_data"]
    if step == "failed":  # Meta leaves the contact out, and the user id where a phone number was written to
        return _change("messages", phone_number_id, statuses=[status | {"errors": [_error(code)]}])
    user_id = str(message.get("recipient") or user_id_of(digits))
    status["recipient_user_id"] = user_id
    if step == "sent":
        status["pricing"] = {"billable": True, "pricing_model": "PMP", "type": "regular", "category": "utility"}
    return _change("messages", phone_number_id, contacts=[_contact(digits, user_id)], statuses=[status])


def message_change(phone_number_id: str, phone: str, message: Mapping[str, object]) -> Json:
    """Return one message that a person wrote.

    Args:
        phone: Its writer, digits.
        message: Its type and the object named like it, e.g. {"type": "text", "text": {"body": "Oi"}}.
    """
    user_id = user_id_of(phone)
    head = {"from": phone, "from_user_id": user_id, "id": message_id(phone, outgoing=False)}
    written = {**head, "timestamp": str(int(time.time())), **message}
    return _change("messages", phone_number_id, contacts=[_contact(phone, user_id)], messages=[written])


def preference_change(phone_number_id: str, phone: str, value: str) -> Json:
    """Return a person's wish about marketing, `stop` or `resume`, that was given in the app itself."""
    wish = {
        "wa_id": phone,
        "user_id": user_id_of(phone),
        "detail": f"User requested to {value} marketing messages",
        "category": "marketing_messages",
        "value": value,
        "timestamp": int(time.time()),
    }
    contacts = [_contact(phone, user_id_of(phone))]
    return _change("user_preferences", phone_number_id, contacts=contacts, user_preferences=[wish])


def message_id(person: str, *, outgoing: bool) -> str:
    """Return a message id as Meta makes them: base64, with the person's number or user id inside.

    Source: the ids in the samples of the WhatsApp Cloud API's webhook reference, decoded, read 2026-11-30.
    """
    size, kind = (9, b"\x11\x18\x12") if outgoing else (10, b"\x12\x18\x14")
    number = person.encode()
    inside = bytes([0x1C, 0x18, len(number)]) + number + b"\x15\x02\x00" + kind
    return "wamid." + base64.b64encode(inside + secrets.token_hex(size).upper().encode() + b"\x00").decode()


def user_id_of(phone: str) -> str:
    """Return the user id that the stand-in has given to a phone number."""
    return f"BR.{int(hashlib.sha256(phone.encode()).hexdigest()[:12], 16)}"


def _change(field: str, phone_number_id: str, **content: object) -> Json:
    metadata = {"display_phone_number": _DISPLAY_NUMBER, "phone_number_id": phone_number_id}
    return {"field": field, "value": {"messaging_product": "whatsapp", "metadata": metadata, **content}}


def _contact(phone: str, user_id: str) -> Json:
    contact: Json = {"profile": {"name": "Ana Teste"}, "user_id": user_id}
    return contact | ({"wa_id": phone} if phone else {})


def _error(code: int) -> Json:
    title = _TITLES.get(code, "Planned error")
    details = {"details": title}
    return {"code": code, "title": title, "message": title, "error_data": details, "href": "https://example.com/errors"}
