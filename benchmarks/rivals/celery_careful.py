"""The Celery task of somebody who read the documentation: threads, a pooled session, late acknowledgement, no results.

Source: Celery 5.7 documentation, "Optimizing" (late acknowledgement for idempotent tasks; prefetch stays at the default
of 4, because short tasks want more than 1), read 2026-11-22. No results, threads, no gossip and no mingle, as
Entrega's own workers.
"""

import requests
from celery import Celery

from benchmarks.rivals.wire import Message, pooled_post, valkey_url

PACKAGES = ("celery", "kombu", "redis", "hiredis", "requests")
app = Celery("careful", broker=valkey_url())
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task(autoretry_for=(requests.RequestException,), retry_backoff=True, retry_jitter=True, max_retries=5)
def send_whatsapp(**fields: str) -> str:
    """Send one message."""
    return pooled_post(fields)


def submit(message: Message) -> str:
    """Send one task."""
    send_whatsapp.delay(**message.fields())
    return message.id
