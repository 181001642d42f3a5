"""The Celery task that most people write: prefork, `requests.post`, autoretry; a new connection for each call.

No result backend, acknowledged early, prefetch as it comes: the settings of Celery 5.7.0, nothing was changed.
"""

import requests
from celery import Celery

from benchmarks.rivals.wire import HEADERS, TIMEOUT_S, Message, body, provider_url, receipt, valkey_url

PACKAGES = ("celery", "kombu", "redis", "requests")
app = Celery("plain", broker=valkey_url())


@app.task(autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=5)
def send_whatsapp(**fields: str) -> str:
    """Send one message."""
    answer = requests.post(provider_url(), json=body(**fields), headers=HEADERS, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return receipt(answer.json())


def submit(message: Message) -> str:
    """Send one task."""
    send_whatsapp.delay(**message.fields())
    return message.id
