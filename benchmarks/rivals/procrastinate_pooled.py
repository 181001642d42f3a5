"""procrastinate: tasks as rows in Postgres, asynchronous, one aiohttp session for each worker.

Source: procrastinate 3.10 documentation, "Launch a worker", "Control the way synchronous calls to defer are handled"
and "Batch defer multiple jobs" ("more efficient than deferring them one by one"), read 2026-11-22. A synchronous task
would run on asyncio's default threads, which are fewer than the calls wanted here.
"""

import aiohttp
import procrastinate

from benchmarks.rivals.wire import HEADERS, TIMEOUT_S, Message, body, postgres_url, provider_url, receipt, threads

PACKAGES = ("procrastinate", "psycopg", "aiohttp")
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=postgres_url()))
_sessions: list[aiohttp.ClientSession] = []


@app.task(name="send_whatsapp", retry=procrastinate.RetryStrategy(max_attempts=6, exponential_wait=2))
async def send_whatsapp(**fields: str) -> str:
    """Send one message."""
    async with _session().post(provider_url(), json=body(**fields)) as answer:
        answer.raise_for_status()
        return receipt(await answer.json())


def _session() -> aiohttp.ClientSession:
    if not _sessions:
        timeout = aiohttp.ClientTimeout(connect=TIMEOUT_S[0], total=TIMEOUT_S[1])
        connector = aiohttp.TCPConnector(limit=threads())
        _sessions.append(aiohttp.ClientSession(headers=HEADERS, timeout=timeout, connector=connector))
    return _sessions[0]


def prepare() -> None:
    """Make the tables, and open the producer's connections."""
    app.open()
    app.schema_manager.apply_schema()


def submit(message: Message) -> str:
    """Write one job."""
    send_whatsapp.defer(**message.fields())
    return message.id


def submit_many(messages: list[Message]) -> list[str]:
    """Write many jobs in one call."""
    send_whatsapp.batch_defer(*[each.fields() for each in messages])
    return [each.id for each in messages]
