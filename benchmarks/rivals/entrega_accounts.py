"""Entrega with many WhatsApp accounts: producer and worker know them beside the one that the environment describes.

All of them lead to the same provider with the same credentials; rows, lanes, limits, breakers and hints are those of
many accounts. Producers use this module; `benchmarks.many_accounts` is the worker's side.
"""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.rivals import entrega_single
from benchmarks.rivals.entrega_single import app, fields
from benchmarks.rivals.wire import Message
from delivery.intake import Item

MANY = tuple(f"whatsapp:bench{n:02d}" for n in range(50))
PACKAGES = entrega_single.PACKAGES
prepare = entrega_single.prepare


def submit(message: Message) -> str:
    """Submit one command and return the delivery's id."""
    return submit_many([message])[0]


def submit_many(messages: Sequence[Message]) -> list[str]:
    """Submit commands for one account after the other in one transaction, and return the deliveries' ids."""
    intake = replace(app.intake, accounts=(*app.intake.accounts, *MANY))
    items = [Item("send_whatsapp", {**fields(each), "options": {"account": _account(each)}}) for each in messages]
    return [each.receipt().id for each in intake.submit_many(items, producer="bench")]


def _account(message: Message) -> str:
    return MANY[int(message.to[-6:]) % len(MANY)]
