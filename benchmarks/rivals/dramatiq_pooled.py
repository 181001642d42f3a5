"""Dramatiq on Redis, with a pooled session.

Source: Dramatiq 2.2 documentation, "Best practices" (idempotent actors, simple messages), read 2026-11-22. The default
middleware stays; no results, which are off unless asked for.
"""

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.rivals.wire import Message, pooled_post, valkey_url

PACKAGES = ("dramatiq", "redis", "hiredis", "requests")
dramatiq.set_broker(RedisBroker(url=valkey_url()))


@dramatiq.actor(max_retries=5, min_backoff=1000, max_backoff=60_000)
def send_whatsapp(**fields: str) -> None:
    """Send one message."""
    pooled_post(fields)


def submit(message: Message) -> str:
    """Send one message to the actor."""
    send_whatsapp.send(**message.fields())
    return message.id
