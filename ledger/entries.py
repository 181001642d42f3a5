"""New deliveries on their way into the ledger, with the hashed keys that tell repeats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from delivery.ports import NewDelivery

# Producer, and the key with its kind in front.
Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One new delivery with its hashed keys, its recipient as a keyed hash, and where its producer is told of it."""

    new: NewDelivery
    person: bytes
    endpoint: UUID | None
    keys: Mapping[Key, tuple[bytes, timedelta]]


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
