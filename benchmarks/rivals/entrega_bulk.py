"""Entrega, many commands in one call, as `POST /v1/bulk` does it; workers take them up in lanes."""

from collections.abc import Sequence

from benchmarks.rivals import entrega_single
from benchmarks.rivals.entrega_single import app, fields
from benchmarks.rivals.wire import Message
from delivery.intake import Item

PACKAGES = entrega_single.PACKAGES
prepare = entrega_single.prepare
submit = entrega_single.submit


def submit_many(messages: Sequence[Message]) -> list[str]:
    """Submit many commands in one transaction and return the deliveries' ids."""
    items = [Item("send_whatsapp", fields(each)) for each in messages]
    return [each.receipt().id for each in app.intake.submit_many(items, producer="bench")]
