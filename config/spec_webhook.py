"""The part of a spec that says how a provider talks to us: proof of its webhooks, and what stands where in them.

The type "Webhook" of the user's template. An integration that is never called back leaves the section out.
"""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from config.retention import SHORTEST_EVENTS
from config.spec_values import WHATSAPP_ONLY, Count, HeaderName, Seconds, Section, Text, Texts, Variable, listed

Network = IPv4Network | IPv6Network


def _network(value: object) -> object:
    return ip_network(value) if isinstance(value, str) else value


def _one_form(value: str) -> str:
    if sum(value.count(each) for each in ("{hex}", "{base64}")) != 1:
        raise ValueError('wanted {hex} or {base64} once, e.g. "sha256={hex}"')
    return value


class Signature(Section):
    """How a webhook proves where it comes from: an HMAC over the untouched bytes of its body.

    Attributes:
        format: How it stands in the header, e.g. "sha256={hex}"; hex digits are lower case.
        secret: The variable that holds the key. A comma between several: each is accepted, for the time of a rotation.
    """

    header: HeaderName
    algorithm: Literal["sha256", "sha512"]
    format: Annotated[Text, AfterValidator(_one_form)]
    secret: Variable


class Shape(Section):
    """Where the facts stand in a webhook's JSON, as dotted paths; for an adapter that knows its provider's, left out.

    Attributes:
        events: The list of events; without it the body is one event. The other paths start at an event.
        id: The provider's id of the event: a repeat has the same one.
        delivery: Our delivery id, as the provider echoes it.
        statuses: The provider's words for progress, and ours.
        code: Why it failed, in the provider's word.
    """

    events: Text | None = None
    id: Text
    delivery: Text
    status: Text
    statuses: Annotated[
        Mapping[Text, Literal["sent", "delivered", "read", "failed", "bounced"]],
        Field(min_length=1),
    ]
    receipt: Text | None = None
    at: Text | None = None
    code: Text | None = None


class Webhook(Section):
    """How a provider talks to us.

    Attributes:
        verify_token: The variable with the word that is asked for before webhooks are sent (`hub.verify_token`).
        networks: Where they may come from, e.g. 203.0.113.0/24; anywhere when empty.
        oldest: `oldest_s` in YAML; what was told of a person longer ago is not stored: a signature proves no time, so
            an old body that is sent again could bring back an erased person. At most 9 days: repeats are recognised for
            `events` in ENTREGA_KEEP, which is never shorter.
        window: `window_s` in YAML; how long after a person's message we may answer freely.
        opt_out: A message that consists of one of these words ends marketing to its writer.
        opt_in: The words that allow it again.
    """

    signature: Signature
    verify_token: Variable | None = None
    networks: Annotated[tuple[Annotated[Network, BeforeValidator(_network)], ...], listed] = ()
    max_bytes: Count
    # Source: Cloud API, webhooks overview: what is not answered with 200 is repeated for up to 7 days; read 2026-11-22.
    oldest: Seconds = Field(timedelta(days=8), validation_alias="oldest_s", le=SHORTEST_EVENTS)
    window: Annotated[Seconds | None, WHATSAPP_ONLY] = Field(None, validation_alias="window_s")
    opt_out: Annotated[Texts, WHATSAPP_ONLY] = ()
    opt_in: Annotated[Texts, WHATSAPP_ONLY] = ()
    shape: Shape | None = None
