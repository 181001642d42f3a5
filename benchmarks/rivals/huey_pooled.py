"""huey on Redis with threads and a pooled session; nothing of its results is kept, as nobody reads them.

Source: huey 3.5 documentation, "Consuming tasks" (worker type thread for waiting work, number of workers) and
"Deploying to production" (several consumers, all but one with `--no-periodic`; SIGINT ends them in good order; results
must not grow without bound), read 2026-11-22. huey takes a message off its list before it is worked on: a killed
consumer loses what it had.
"""

from huey import RedisHuey

from benchmarks.rivals.wire import Message, pooled_post, valkey_url

PACKAGES = ("huey", "redis", "hiredis", "requests")
huey = RedisHuey("bench", url=valkey_url(), results=False)


@huey.task(retries=5, retry_delay=1)
def send_whatsapp(fields: dict[str, str]) -> None:
    """Send one message. Its fields travel as one argument: huey takes `id` for the task's own."""
    pooled_post(fields)


def submit(message: Message) -> str:
    """Enqueue one task."""
    send_whatsapp(message.fields())
    return message.id
