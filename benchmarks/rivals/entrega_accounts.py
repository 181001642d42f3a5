"""Entrega with many WhatsApp accounts beside the one that the environment describes, set up as an operator adds them.

All of them lead to the same provider with the same credentials; rows, lanes, limits, breakers and hints are those of
many accounts.
"""

import os
from collections.abc import Sequence

from benchmarks.rivals import entrega_single
from benchmarks.rivals.entrega_single import app, fields
from benchmarks.rivals.wire import Message
from config.account import own_variables
from delivery.intake import Item

MANY = tuple(f"whatsapp:bench{n:02d}" for n in range(50))
PACKAGES = entrega_single.PACKAGES


def prepare() -> None:
    """Make the tables and add the accounts, each with the values of the environment."""
    entrega_single.prepare()
    wanted = own_variables(app.specs["whatsapp"])
    values = {name: os.environ[name] for name in wanted if name in os.environ}
    for name in MANY:
        app.accounts.put(name, values, actor="bench", reason="benchmark")


def submit(message: Message) -> str:
    """Submit one command and return the delivery's id."""
    return submit_many([message])[0]


def submit_many(messages: Sequence[Message]) -> list[str]:
    """Submit commands for one account after the other in one transaction, and return the deliveries' ids."""
    items = [Item("send_whatsapp", {**fields(each), "options": {"account": _account(each)}}) for each in messages]
    return [each.receipt().id for each in app.intake.submit_many(items, producer="bench")]


def _account(message: Message) -> str:
    return MANY[int(message.to[-6:]) % len(MANY)]
