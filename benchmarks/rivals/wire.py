"""The call that every rival makes: the same WhatsApp message that Entrega sends, byte for byte about as long."""

import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import requests

POSTGRES_VARIABLE, VALKEY_VARIABLE, PROVIDER_VARIABLE = "BENCH_POSTGRES", "BENCH_VALKEY", "BENCH_PROVIDER"
THREADS_VARIABLE = "BENCH_THREADS"
HEADERS = {"Authorization": "Bearer invented-token", "Accept": "application/json"}
TIMEOUT_S = (5.0, 30.0)


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        id: What the provider knows it by.
    """

    id: str
    to: str
    text: str

    def fields(self) -> dict[str, str]:
        """Return it as the keyword arguments of a task."""
        return asdict(self)


def postgres_url() -> str:
    """Return `postgresql://user:password@host:port/database`."""
    return os.environ[POSTGRES_VARIABLE]


def valkey_url() -> str:
    """Return `redis://:password@host:port/0`."""
    return os.environ[VALKEY_VARIABLE]


def provider_url() -> str:
    """Return where messages go."""
    return os.environ[PROVIDER_VARIABLE] + "/v26.0/100200300/messages"


def threads() -> int:
    """Return how many calls one process may have in flight."""
    return int(os.environ[THREADS_VARIABLE])


def body(id: str, to: str, text: str) -> dict[str, Any]:  # noqa: A002 - the field's name
    """Return what goes over the wire as JSON."""
    return {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": to,
        "type": "text",
        "text": {"body": text, "preview_url": False},
        "biz_opaque_callback_data": id,
    }


def receipt(answer: Mapping[str, Any]) -> str:
    """Return the provider's own id of the message."""
    return str(answer["messages"][0]["id"])


_local = threading.local()


def pooled_post(fields: Mapping[str, str]) -> str:
    """Send a message over this thread's own session, which keeps its connection, and return the receipt.

    One session for each thread: requests does not promise that one may be shared.

    Raises:
        requests.RequestException: It was not sent, or refused.
    """
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
        _local.session.headers.update(HEADERS)
    answer = _local.session.post(provider_url(), json=body(**fields), timeout=TIMEOUT_S)
    answer.raise_for_status()
    return receipt(answer.json())
