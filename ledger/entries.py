"""New deliveries on their way into the ledger, with what they are found by, hashed: person, keys and content."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from delivery.ids import first_id
from delivery.ports import NewDelivery
from delivery.producers import HELD_BECAUSE
from ledger.models import PRIORITIES
from ledger.sealing import seal
from ledger.vault import DataKey

# Producer, and the key with its kind in front.
Key = tuple[str, str]
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Entry:
    """One new delivery.

    Attributes:
        person: The recipient as a keyed hash.
        keys: Each with the hash that a repeat must have, and how long the key is kept.
        content: What is asked for, options apart, as a short keyed hash.
        endpoint: Where its producer is told of it.
    """

    new: NewDelivery
    person: bytes
    keys: Mapping[Key, tuple[bytes, timedelta]]
    content: int
    endpoint: UUID | None = None


@dataclass(frozen=True)
class NewRow:
    """One new delivery, as the columns of the OPEN statement."""

    ids: UUID
    kinds: str
    accounts: str
    producers: str
    priorities: int
    send_at: object
    expires_at: object
    expires_in: float
    holds: int
    people: bytes
    recipients: str
    bodies: bytes
    order_keys: str | None
    fallbacks: int
    endpoints: UUID | None
    data_keys: bytes
    data_keys_are_new: bool
    marketing: int
    cancel_on_reply: int
    contents: int
    held_codes: str | None
    held_reasons: str | None
    same_most: int | None
    same_since: UUID
    same_earlier: int
    may_be_refused: bool


def split_repeats(entries: Sequence[Entry]) -> tuple[list[Entry], dict[UUID, tuple[NewDelivery, bool]]]:
    """Part the entries that share a key with an earlier one of the same batch: one statement cannot take a key twice.

    Returns:
        The first entries, and for each repeat the first it repeats and whether their bodies agree.
    """
    owner: dict[Key, Entry] = {}
    firsts, repeats = [], {}
    for each in entries:
        shared = next((key for key in each.keys if key in owner), None)
        if shared is None:
            firsts.append(each)
            owner |= dict.fromkeys(each.keys, each)
        else:
            first = owner[shared]
            repeats[each.new.id] = (first.new, first.keys[shared][0] == each.keys[shared][0])
    return firsts, repeats


def payload_place(delivery_id: UUID) -> str:
    """Return what a sealed payload is bound to."""
    return f"payloads.body/{delivery_id}"


def new_row(entry: Entry, data_key: DataKey, order_key: str | None, same_earlier: int) -> NewRow:
    """Return the row of a delivery, its payload sealed.

    Args:
        order_key: As a keyed hash.
        same_earlier: How many before it in the same statement have its content and person.
    """
    new = entry.new
    options = new.command.options
    loop = new.policy.loop
    body = {"content": new.command.content(), "options": options.model_dump(mode="json")}
    return NewRow(
        ids=new.id,
        kinds=new.command.kind,
        accounts=new.account,
        producers=new.producer,
        priorities=PRIORITIES.index(options.priority),
        send_at=options.send_at,
        expires_at=options.expires_at,
        expires_in=new.expires_in.total_seconds(),
        holds=int(new.hold_uncertain),
        people=entry.person,
        recipients=new.recipient,
        bodies=seal(data_key.key, canonical(body).encode(), payload_place(new.id)),
        order_keys=order_key,
        fallbacks=int(options.fallback is not None),
        endpoints=entry.endpoint,
        data_keys=data_key.wrapped,
        data_keys_are_new=data_key.is_new,
        marketing=int(new.command.is_marketing),
        cancel_on_reply=int(options.cancel_on_reply),
        contents=entry.content,
        held_codes=new.held_code,
        held_reasons=HELD_BECAUSE[new.held_code] if new.held_code else None,
        same_most=loop.most if loop else None,
        same_since=first_id(before=new.id, span=loop.within if loop else timedelta()),
        same_earlier=same_earlier,
        may_be_refused=new.origin is None,
    )


def wanted_keys(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the keys that deliveries must win, as the columns of the OPEN statement."""
    wanted = [(key, value, each.new.id) for each in entries for key, value in each.keys.items()]
    return {
        "key_ids": [id_ for *_, id_ in wanted],
        "key_producers": [producer for (producer, _), *_ in wanted],
        "keys": [key for (_, key), *_ in wanted],
        "key_hashes": [body_hash for _, (body_hash, _), _ in wanted],
        "kept": [kept.total_seconds() for _, (_, kept), _ in wanted],
    }


def canonical(value: object) -> str:
    """Return JSON that is the same for equal values: what is hashed and sealed."""
    return _CANONICAL.encode(value)
