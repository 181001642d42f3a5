"""taskiq on a Redis stream, the broker of its Redis package that acknowledges; asynchronous, one aiohttp session.

Source: taskiq 0.13 documentation, "CLI" (`--max-async-tasks`, `--max-prefetch` for high message rates with brokers that
acknowledge) and "State and dependencies" (one client for each worker, made at its start), read 2026-11-22. No result
backend.
"""

import asyncio

import aiohttp
from taskiq import Context, SimpleRetryMiddleware, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from benchmarks.rivals.wire import HEADERS, TIMEOUT_S, Message, body, provider_url, receipt, threads, valkey_url

PACKAGES = ("taskiq", "taskiq-redis", "redis", "hiredis", "aiohttp")
broker = RedisStreamBroker(url=valkey_url()).with_middlewares(SimpleRetryMiddleware(default_retry_count=5))
_loop = asyncio.new_event_loop()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(state: TaskiqState) -> None:
    """Make the session of this worker."""
    timeout = aiohttp.ClientTimeout(connect=TIMEOUT_S[0], total=TIMEOUT_S[1])
    connector = aiohttp.TCPConnector(limit=threads())
    state.session = aiohttp.ClientSession(headers=HEADERS, timeout=timeout, connector=connector)


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_session(state: TaskiqState) -> None:
    """Close it."""
    await state.session.close()


@broker.task(retry_on_error=True)
async def send_whatsapp(fields: dict[str, str], context: Context = TaskiqDepends()) -> str:  # noqa: B008 - taskiq's way
    """Send one message."""
    async with context.state.session.post(provider_url(), json=body(**fields)) as answer:
        answer.raise_for_status()
        return receipt(await answer.json())


def prepare() -> None:
    """Connect the producer and make the stream's group, so that what is sent before a worker is up is kept."""
    _loop.run_until_complete(broker.startup())


def submit(message: Message) -> str:
    """Send one task."""
    _loop.run_until_complete(send_whatsapp.kiq(message.fields()))
    return message.id


def submit_many(messages: list[Message]) -> list[str]:
    """Send many, one after the other: taskiq has no call for several."""

    async def send_all() -> list[str]:
        for each in messages:
            await send_whatsapp.kiq(each.fields())
        return [each.id for each in messages]

    return _loop.run_until_complete(send_all())
