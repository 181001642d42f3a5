"""A new delivery on its way into the ledger, with what it is found by: the person, the keys and the content, hashed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from delivery.ports import NewDelivery

Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One new delivery.

    Attributes:
        person: The recipient as a keyed hash.
        keys: (producer, key) with the hash that a repeat must have, and how long the key is kept.
        content: What is asked for, options apart, as a short keyed hash.
    """

    new: NewDelivery
    person: bytes
    keys: Mapping[Key, tuple[bytes, timedelta]]
    content: int
