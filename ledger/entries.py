"""New deliveries on their way into the ledger, with what they are found by, hashed: person, keys and content."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from delivery.ids import first_id
from delivery.ports import NewDelivery
from delivery.producers import HELD_BECAUSE
from ledger.models import PRIORITIES
from ledger.sealing import seal
from ledger.vault import DataKey, Vault

# Producer, and the key's keyed hash with its sort in front; the last sort is of the content, a keyed hash already.
Key = tuple[str, str]
_CHOSEN, _ORIGIN = CLEAR_KEYS = ("key", "origin")
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Entry:
    """One new delivery.

    Attributes:
        person: The recipient as a keyed hash.
        keys: Each with the hash that a repeat must have, and how long the key is kept.
        content: What is asked for, options apart, as a short keyed hash.
        stored: Content and options as plain JSON: what is sealed.
        endpoint: Where its producer is told of it.
        people: Everybody whom it may reach, once for each message, as keyed hashes; empty where nothing is counted.
    """

    new: NewDelivery
    person: bytes
    stored: Mapping[str, Any]
    keys: Mapping[Key, tuple[bytes, timedelta]]
    content: int
    endpoint: UUID | None = None
    people: tuple[bytes, ...] = ()

    @property
    def url(self) -> str | None:
        """Where its producer wants to be told of it."""
        return self.new.command.options.callback_url


@dataclass(frozen=True)
class Repeat:
    """An entry that shares a key with an earlier one of its set.

    Attributes:
        first: The id of the earlier one.
        same_body: Whether their bodies agree.
    """

    entry: Entry
    first: UUID
    same_body: bool


def hashed_key(vault: Vault, sort: str, clear: str) -> str:
    """Return a key as the ledger keeps it: producers put addresses into theirs.

    Shape: "key#<40 hexadecimal digits>"; before they were hashed it was "key:<the producer's own>".
    """
    return f"{sort}#{vault.hash(f'{sort}:{clear}').hex()[:40]}"


def keys_of(
    new: NewDelivery, vault: Vault, content: str, content_hash: bytes, options: Mapping[str, Any]
) -> dict[Key, tuple[bytes, timedelta]]:
    """Return the keys that a delivery must win, each with the hash that a repeat must have, and its time.

    Args:
        content: What is asked for, options apart, as `canonical` writes it.
    """
    if new.key is not None:
        unkeyed = {name: value for name, value in options.items() if name != "key"}
        body_hash = vault.hash(content + canonical(unkeyed))
        keys = {(new.producer, hashed_key(vault, _CHOSEN, new.key)): (body_hash, new.key_kept)}
    else:
        keys = {(new.producer, f"same:{content_hash.hex()}"): (content_hash, new.same_within)}
    if new.origin is not None:
        keys[new.producer, hashed_key(vault, _ORIGIN, new.origin)] = (content_hash, new.key_kept)
    return keys


def may_differ(key: Key) -> bool:
    """Tell whether a repeat of the key may have another body, so that it has to be compared."""
    return key[1].startswith(f"{_CHOSEN}#")


def split_repeats(entries: Sequence[Entry]) -> tuple[list[Entry], list[Repeat]]:
    """Part the entries that share a key with an earlier one of the same set: one statement cannot take a key twice."""
    owner: dict[Key, Entry] = {}
    firsts, repeats = [], []
    for each in entries:
        shared = next((key for key in each.keys if key in owner), None)
        if shared is None:
            firsts.append(each)
            owner |= dict.fromkeys(each.keys, each)
        else:
            first = owner[shared]
            repeats.append(Repeat(each, first.new.id, first.keys[shared][0] == each.keys[shared][0]))
    return firsts, repeats


def payload_place(delivery_id: UUID) -> str:
    """Return what a sealed payload is bound to."""
    return f"payloads.body/{delivery_id}"


def new_row(
    entry: Entry, data_key: DataKey, order_key: str | None, same_earlier: int, *, environment: str
) -> dict[str, Any]:
    """Return the row of a delivery as the OPEN statement reads it from JSON, its payload sealed.

    Args:
        order_key: As a keyed hash.
        same_earlier: How many before it in the same statement have its content and person.
        environment: The ledger's own, for a delivery that names none.
    """
    new = entry.new
    options = new.command.options
    loop = new.policy.loop
    return {
        "id": new.id,
        "kind": new.command.kind,
        "account": new.account,
        "producer": new.producer,
        "priority": PRIORITIES.index(options.priority),
        "send_at": options.send_at and options.send_at.isoformat(),
        "expires_at": options.expires_at and options.expires_at.isoformat(),
        "expires_s": new.expires_in.total_seconds(),
        "hold": int(new.hold_uncertain),
        "person": _bytea(entry.person),
        "recipient": new.recipient,
        "body": _bytea(seal(data_key.key, to_json(entry.stored), payload_place(new.id))),
        "order_key": order_key,
        "fallback": int(options.fallback is not None),
        "endpoint_id": entry.endpoint,
        "data_key": _bytea(data_key.wrapped),
        "data_key_is_new": data_key.is_new,
        "marketing": int(new.command.is_marketing),
        "cancel_on_reply": int(options.cancel_on_reply),
        "content": entry.content,
        "environment": new.environment or environment,
        "held_code": new.held_code,
        "held_reason": HELD_BECAUSE[new.held_code] if new.held_code else None,
        "same_most": loop.most if loop else None,
        "same_since": first_id(before=new.id, span=loop.within) if loop else None,
        "same_earlier": same_earlier,
        "may_be_refused": new.origin is None,
        "counted": len(entry.people) or None,
    }


def wanted_keys(entry: Entry) -> list[dict[str, Any]]:
    """Return the keys that a delivery must win, as the OPEN statement reads them from JSON."""
    return [
        {
            "id": entry.new.id,
            "producer": producer,
            "key": key,
            "body_hash": _bytea(body_hash),
            "kept_s": kept.total_seconds(),
        }
        for (producer, key), (body_hash, kept) in entry.keys.items()
    ]


def _bytea(value: bytes) -> str:
    return f"\\x{value.hex()}"


def canonical(value: object) -> str:
    """Return JSON that is the same for equal values: what is hashed."""
    return _CANONICAL.encode(value)
