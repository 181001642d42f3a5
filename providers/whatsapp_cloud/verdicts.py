"""Meta's error codes as our verdicts. Act on the code: HTTP status, title and subcode are not dependable.

The texts are ours. Meta's own may hold a phone number and never leave this module.

Source: WhatsApp Cloud API, error codes, Sep-2026, and Graph API, handling errors, read 2026-11-22.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from config.policy import StatusRule
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from delivery.outcomes import Usage
from providers.http import VERDICT_ERRORS, Answer

_TRACE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Meaning:
    """What one code of Meta's means to us.

    Attributes:
        code: Our stable word.
        text: What happened and what to do, in our words.
        wait: How long Meta's documentation says to wait, where it does.
    """

    verdict: type[ProviderError]
    code: str
    text: str
    wait: timedelta | None = None


def _again(code: str, text: str, wait: timedelta | None = None) -> Meaning:
    return Meaning(Retryable, code, text, wait)


def _never(code: str, text: str) -> Meaning:
    return Meaning(Permanent, code, text)


_TOKEN = _never("unauthorized", "the access token is refused; make a new system-user token and enter it")
_RIGHTS = _never("forbidden", "a permission is missing; grant whatsapp_business_messaging to the token's app")
_CALLS = _again("rate_limited", "too many calls in this hour; everything of this account slows down")
_SERVICE = _again("unavailable", "Meta's service is down or overloaded")
_SOON = _again("temporary", "Meta failed and says to try again")
_FIELDS = _never("invalid", "the message is not one Meta accepts; correct its fields")
_GROUP = _never("invalid", "group messages are not supported here")
_PERSON = _never("undeliverable", "this person cannot get it on WhatsApp; use another channel")
_CAPPED = _never("capped", "Meta holds marketing back from this person; leave it for a day at least")
_PAUSED = _never("template_unusable", "the template is paused, disabled or not approved; see WhatsApp Manager")
_FILLING = _never("invalid", "the template's variables do not fit it; compare them with WhatsApp Manager")
_MARKETING = _never("template_unusable", "this template may not be sent on this path; see marketing messages")
_BLOCKED = _never("account_blocked", "Meta blocks or limits the account; see WhatsApp Manager, account quality")
_NUMBER = _never("account_blocked", "the phone number is not ready to send; see WhatsApp Manager, phone numbers")
_PAYMENT = _never("account_blocked", "there is a payment problem; see the billing hub of the business")

MEANINGS: Mapping[int, Meaning] = {
    0: _TOKEN,
    1: _SOON,
    2: _SERVICE,
    3: _RIGHTS,
    4: _CALLS,
    10: _RIGHTS,
    17: _CALLS,
    32: _CALLS,
    33: _never("misconfigured", "the phone number id is wrong or deleted; correct WHATSAPP_PHONE_NUMBER_ID"),
    100: _FIELDS,
    102: _TOKEN,
    104: _TOKEN,
    190: _TOKEN,
    341: _CALLS,
    368: _BLOCKED,
    613: _CALLS,
    80007: _CALLS,
    130403: _never("undeliverable", "we have blocked this person; unblock them first"),
    130429: _again("rate_limited", "the number sends faster than its throughput allows"),
    130472: _never("capped", "the person is in an experiment of Meta's; this campaign does not reach them"),
    130497: _never("forbidden", "this account may not write to people in that country"),
    131000: _SOON,
    131005: _RIGHTS,
    131008: _FIELDS,
    131009: _FIELDS,
    131016: _SERVICE,
    131020: _GROUP,
    131021: _never("invalid", "sender and recipient are the same number"),
    131026: _PERSON,
    131030: _never("invalid", "a test number reaches only people on its list; add the person or use a real number"),
    131031: _BLOCKED,
    131037: _never("account_blocked", "the display name is not approved; see WhatsApp Manager, phone numbers"),
    131041: _GROUP,
    131042: _PAYMENT,
    131044: _PAYMENT,
    131045: _NUMBER,
    # The 24-hour window is shut. Waiting does not help; a template does.
    131047: _never("window_closed", "the 24-hour window is shut; send a template"),
    131048: _BLOCKED,
    # Retrying inside 24 h is itself punished since 2026-04-30.
    131049: _CAPPED,
    131050: _never("capped", "the person stopped marketing from us; send none until they resume"),
    131051: _never("invalid", "this type of message is not supported"),
    131052: _never("invalid", "the media could not be downloaded; check the link"),
    131053: _never("invalid", "the media could not be taken; check its type, its size and the link"),
    131055: _MARKETING,
    131056: _again("pair_limited", "too many messages to this person; only they wait"),
    131057: _again("temporary", "the number is being upgraded", timedelta(seconds=60)),
    131059: _FIELDS,
    131060: _FIELDS,
    131061: _MARKETING,
    131062: _never("undeliverable", "this message needs a phone number, not a user id"),
    131063: _MARKETING,
    131064: _BLOCKED,
    132000: _FILLING,
    132001: _never("template_unusable", "there is no such template in this language, or it is not approved"),
    132005: _FILLING,
    132007: _FILLING,
    132008: _FILLING,
    132012: _FILLING,
    132015: _PAUSED,
    132016: _PAUSED,
    132018: _FILLING,
    132068: _never("template_unusable", "the flow is blocked; see WhatsApp Manager, flows"),
    132069: _again("temporary", "the flow is throttled", timedelta(hours=1)),
    133000: _NUMBER,
    133004: _SERVICE,
    133005: _NUMBER,
    133006: _NUMBER,
    133008: _NUMBER,
    133009: _NUMBER,
    133010: _NUMBER,
    133015: _NUMBER,
    133016: _NUMBER,
    134011: _PAYMENT,
    134100: _MARKETING,
    134101: _again("temporary", "the template is still being synchronised", timedelta(minutes=10)),
    134102: _MARKETING,
    135000: _SOON,
    137000: _never("undeliverable", "the person's identity changed; a person of ours must confirm it"),
}

# Families of codes of which no member needs a line of its own: rights, groups, calls, flows, user names, management.
RANGES: tuple[tuple[range, Meaning], ...] = (
    (range(200, 300), _RIGHTS),
    (range(131200, 131300), _GROUP),
    (range(138000, 140000), _FIELDS),
    (range(147000, 148000), _FIELDS),
    (range(2388000, 2389000), _FIELDS),
    (range(2494000, 2495000), _FIELDS),
    (range(2593000, 2594000), _FIELDS),
)
_TRANSIENT = _again("temporary", "Meta says this passes; its code is not in our table")
_NEW = _never("unknown", "Meta's code is not in our table; read its error page and add it")


def meaning(code: int, *, transient: bool) -> Meaning:
    """Return what a code of Meta's means.

    Args:
        code: `error.code` of the answer, or of an entry of a `failed` status webhook.
        transient: `error.is_transient`; decides for a code that nobody has seen.
    """
    family = next((found for codes, found in RANGES if code in codes), None)
    return MEANINGS.get(code) or family or (_TRANSIENT if transient else _NEW)


def refusal(answer: Answer, rule: StatusRule, *, now: datetime, usage: Usage | None) -> ProviderError:
    """Turn an answer that is no success into a verdict.

    Args:
        answer: Shape: {"error": {"code": 131056, "message": "...", "fbtrace_id": "...", "is_transient": false}}.
        rule: What the spec says about its status; used when the answer has no code of Meta's.
        now: Stands in for the answer's date when it asks us to wait until an instant.
        usage: What the answer's headers say about our limits, such as the minutes until calls are accepted again.
    """
    code = answer.at("error.code")
    if isinstance(code, bool) or not isinstance(code, int):
        return _without_code(answer, rule, now, usage)
    # 100 with subcode 33 is no wrong field: the phone number id does not exist for this token.
    meant = 33 if (code, answer.at("error.error_subcode")) == (100, 33) else code
    found = meaning(meant, transient=answer.at("error.is_transient") is True)
    return found.verdict(
        f"WhatsApp refused with {code}: {found.text}{_trace(answer)}",
        code=found.code,
        retry_after=_asked(answer, now, usage) or found.wait if found.verdict is Retryable else None,
        http_status=answer.status,
        provider_code=str(code),
        usage=usage,
    )


def _without_code(answer: Answer, rule: StatusRule, now: datetime, usage: Usage | None) -> ProviderError:
    # An edge in front of Graph answered. It cannot know whether Graph had already taken the message.
    if answer.status >= _SERVER_ERROR:
        message = f"WhatsApp answered {answer.status} without an error of Meta's; wait for a status webhook"
        return Ambiguous(message, code=rule.code, http_status=answer.status, usage=usage)
    message = f"WhatsApp refused with {answer.status}: {rule.meaning}"
    verdict = VERDICT_ERRORS[rule.verdict]
    asked = _asked(answer, now, usage)
    return verdict(message, code=rule.code, http_status=answer.status, retry_after=asked, usage=usage)


def _trace(answer: Answer) -> str:
    trace = answer.text_at("error.fbtrace_id")
    return f" (Meta's trace {trace})" if trace and _TRACE.fullmatch(trace) else ""


def _asked(answer: Answer, now: datetime, usage: Usage | None) -> timedelta | None:
    return usage.wait if usage and usage.wait else answer.retry_after(now)
