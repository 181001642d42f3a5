"""Meta's webhooks in our words: one body in, events out. Pure; it checks no signature and stores nothing.

One body mixes entries, changes, messages and statuses, so all of them are walked. What this module does not know it
leaves out and counts; nothing that Meta adds may stop the rest.

Source: WhatsApp Cloud API, webhooks overview and the references of `messages`, `statuses`, `user_preferences` and the
template and account fields, Sep-2026; business-scoped user ids, edition of 2026-06-29; read 2026-11-22.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import JsonValue

from config.policy import Webhook
from delivery.inbound import Consent, Event, Json, Told, at_path, clean, instant_at, uuid_at, word_at
from providers.whatsapp_cloud.verdicts import meaning

# A status that is not here is stored as a sign of life only.
_STEPS = {"sent": "sent", "delivered": "delivered", "read": "read", "played": "read", "failed": "failed"}
# Neither is something that a person wrote to us.
_NOTICES = frozenset({"edit", "reaction", "revoke", "system"})
_DIGITS = re.compile(r"\d{6,20}")
_USER_ID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9.]{1,132}")
# Meta names some Brazilian mobiles in their old form, without the ninth digit. Source: facts on WhatsApp in Brazil, and
# Anatel's resolution 553 on the ninth digit, read 2026-11-22.
_OLD_MOBILE = re.compile(r"\+55(\d\d)([6-9]\d{7})")
_CHOICES = ("button_reply", "list_reply")
_LONGEST_FLOW = 65_536


@dataclass(frozen=True)
class _Change:
    """One change of one entry."""

    field: str
    value: Mapping[str, object]
    entry: Mapping[str, object]


@dataclass(frozen=True)
class Reader:
    """Reads Meta's webhooks.

    Attributes:
        form: The window and the words of opting out.
        phone_number_id: The number of this account: events of the app's other numbers are left out. None takes all.
        now: The present instant: no window counts from the future.
    """

    form: Webhook
    phone_number_id: str | None
    now: datetime

    def read(self, body: object) -> Told:
        """Return what a webhook's parsed body tells.

        Shape: {"object": "whatsapp_business_account", "entry": [{"id", "changes": [{"field", "value"}]}]}
        """
        events: list[Event] = []
        skipped: Counter[str] = Counter()
        for change in _changes(body):
            read = self._reader_of(change)
            if read is None:
                skipped["another number" if change.field == "messages" else "unknown field"] += 1
                continue
            for event in read(change):
                if event is None:
                    skipped["without id"] += 1
                else:
                    events.append(event)
        return Told(events, skipped)

    def _reader_of(self, change: _Change) -> "Callable[[_Change], Iterator[Event | None]] | None":
        number = word_at(change.value, "metadata.phone_number_id")
        if self.phone_number_id and number and number != self.phone_number_id:
            return None
        known: Mapping[str, Callable[[_Change], Iterator[Event | None]]] = {
            "messages": self._messages,
            "user_preferences": self._preferences,
            "message_template_status_update": _template,
            "message_template_quality_update": _template,
            "template_category_update": _template,
            "phone_number_quality_update": _account,
            "business_capability_update": _account,
            "account_update": _account,
            "account_alerts": _account,
            "security": _account,
        }
        return known.get(change.field)

    def _messages(self, change: _Change) -> Iterator[Event | None]:
        for status in _objects(change.value.get("statuses")):
            yield _status(status)
        for message in _objects(change.value.get("messages")):
            yield self._message(message, change.value)
        if _objects(change.value.get("errors")):
            yield from _account(replace(change, field="errors"))

    def _message(self, message: Mapping[str, object], value: Mapping[str, object]) -> Event | None:
        wamid, sort = word_at(message, "id"), word_at(message, "type") or "unknown"
        person, alias = _names(word_at(message, "from"), word_at(message, "from_user_id"))
        if wamid is None or person is None:
            return None
        wrote = _wrote(message, sort)
        at = instant_at(message, "timestamp")
        is_notice = sort in _NOTICES
        content: dict[str, JsonValue] = {
            "type": sort,
            "from": person,
            "user_id": alias or (person if not person.startswith("+") else None),
            "message_id": wamid,
            "reply_to": word_at(message, "context.id"),
            # Everything below came from outside and is data: it may look like an instruction and is none.
            "written_by_contact": {"name": _profile_name(value, message), **wrote},
        }
        return Event(
            key=f"message:{wamid}",
            kind="notice" if is_notice else "message",
            at=at,
            receipt=wamid,
            person=person,
            alias=alias,
            window_until=None if is_notice or self.form.window is None else self._opened(at, self.form.window),
            consent=None if is_notice else self._wish(wrote["text"]),
            content=content,
        )

    def _opened(self, at: datetime | None, window: timedelta) -> datetime:
        return min(at or self.now, self.now) + window

    def _wish(self, text: JsonValue) -> Consent | None:
        word = _plain(text) if isinstance(text, str) else ""
        if word in map(_plain, self.form.opt_out):
            return "stop"
        return "resume" if word in map(_plain, self.form.opt_in) else None

    def _preferences(self, change: _Change) -> Iterator[Event | None]:
        for wish in _objects(change.value.get("user_preferences")):
            person, alias = _names(word_at(wish, "wa_id"), word_at(wish, "user_id"))
            said = word_at(wish, "value")
            if person is None or said not in ("stop", "resume") or word_at(wish, "category") != "marketing_messages":
                yield None
                continue
            consent: Consent = "stop" if said == "stop" else "resume"
            yield Event(
                key=f"preference:{person}:{word_at(wish, 'timestamp')}:{said}",
                kind="consent",
                at=instant_at(wish, "timestamp"),
                person=person,
                alias=alias,
                consent=consent,
                content={"from": person, "marketing": said, "detail": clean(wish.get("detail"), longest=500)},
            )


def _changes(body: object) -> Iterator[_Change]:
    for entry in _objects(at_path(body, "entry")):
        for change in _objects(entry.get("changes")):
            value = change.get("value")
            yield _Change(word_at(change, "field") or "", value if isinstance(value, dict) else {}, entry)


def _objects(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _names(phone: str | None, user_id: str | None) -> tuple[str | None, str | None]:
    """Return the person as a command would name it, the phone number first, and the other name."""
    number = f"+{phone}" if phone and _DIGITS.fullmatch(phone) else None
    if number and (old := _OLD_MOBILE.fullmatch(number)):
        number = f"+55{old[1]}9{old[2]}"
    # Never through a phone normaliser: a user id without its letters looks like a number.
    user = user_id if user_id and _USER_ID.fullmatch(user_id) else None
    return (number, user) if number else (user, None)


def _status(status: Mapping[str, object]) -> Event | None:
    wamid, word = word_at(status, "id"), word_at(status, "status", longest=40)
    if wamid is None or word is None:
        return None
    person, alias = _names(word_at(status, "recipient_id"), word_at(status, "recipient_user_id"))
    number = at_path(status, "errors.0.code")
    failed = isinstance(number, int) and not isinstance(number, bool)
    return Event(
        key=f"status:{wamid}:{word}",
        kind="status",
        at=instant_at(status, "timestamp"),
        delivery_id=uuid_at(status, "biz_opaque_callback_data"),
        status=_STEPS.get(word),
        receipt=wamid,
        code=meaning(int(str(number)), transient=False).code if failed else None,
        provider_code=str(number) if failed else None,
        person=person,
        alias=alias,
    )


def _wrote(message: Mapping[str, object], sort: str) -> dict[str, JsonValue]:
    """Return what a person wrote or chose, whatever the type of the message.

    Shape: {"text": "Sim", "choice": "yes-1", "fields": null, "object": {...what Meta sent, cleaned...}}
    """
    body = message.get(sort)
    reply = next((each for name in _CHOICES if isinstance(each := at_path(body, name), dict)), None)
    texts = (at_path(body, "body"), at_path(body, "caption"), at_path(body, "text"), at_path(reply, "title"))
    choice = word_at(reply, "id") if reply else word_at(body, "payload")
    return {
        "text": clean(next((each for each in texts if isinstance(each, str)), None)),
        "choice": choice,
        "fields": _flow_answers(at_path(body, "nfm_reply.response_json")),
        "object": clean(body),
    }


def _flow_answers(text: object) -> JsonValue:
    """Return a flow's answers, which Meta sends as JSON inside a text; None when there are none."""
    if not isinstance(text, str) or len(text) > _LONGEST_FLOW:
        return None
    try:
        return clean(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _profile_name(value: Mapping[str, object], message: Mapping[str, object]) -> JsonValue:
    for contact in _objects(value.get("contacts")):
        same_phone = contact.get("wa_id") and contact.get("wa_id") == message.get("from")
        same_user = contact.get("user_id") and contact.get("user_id") == message.get("from_user_id")
        if same_phone or same_user:
            return clean(at_path(contact, "profile.name"), longest=200)
    return None


def _plain(text: str) -> str:
    bare = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(each for each in bare if each.isalnum() or each.isspace()).split())


def _template(change: _Change) -> Iterator[Event | None]:
    value = change.value
    name, language = word_at(value, "message_template_name"), word_at(value, "message_template_language")
    if name is None or language is None:
        yield None
        return
    yield Event(
        key=_news_key(change),
        kind="template",
        at=instant_at(change.entry, "time"),
        content={
            "name": name,
            "language": language,
            "status": word_at(value, "event", longest=40),
            "category": word_at(value, "new_category", longest=40),
            "quality": word_at(value, "new_quality_score", longest=40),
        },
    )


def _account(change: _Change) -> Iterator[Event | None]:
    words = (word_at(change.value, path, longest=60) for path in _NEWS_WORDS)
    note = " ".join([change.field, *(each for each in words if each)])
    yield Event(_news_key(change), "account", at=instant_at(change.entry, "time"), content={"note": note})


# Words of Meta's own lists alone, never a text that may name somebody.
_NEWS_WORDS = (
    "event",
    "current_limit",
    "max_daily_conversations_per_business",
    "ban_info.waba_ban_state",
    "violation_info.violation_type",
    "alert_info.alert_type",
    "alert_info.alert_severity",
    "errors.0.code",
)


def _news_key(change: _Change) -> str:
    # News have no id of their own; a repeat is the same bytes at the same time.
    facts: Json = {"value": clean(change.value), "id": word_at(change.entry, "id"), "at": word_at(change.entry, "time")}
    return f"{change.field}:{json.dumps(facts, sort_keys=True)}"
