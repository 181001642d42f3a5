"""Signs callbacks after Standard Webhooks, so that producers check them with a library of their language.

Source: Standard Webhooks specification, sections "Webhook headers" and "Signature scheme", read 2026-11-22.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID


def signed_headers(event: UUID, at: datetime, body: bytes, secrets: Iterable[bytes]) -> Mapping[str, str]:
    """Return the headers of one attempt.

    Args:
        event: The same on every attempt: receivers know repeats by it.
        at: The instant of this attempt.
        secrets: One signature for each stands in the header; any of them proves us.
    """
    timestamp = str(int(at.timestamp()))
    content = b".".join((str(event).encode(), timestamp.encode(), body))
    signatures = (base64.b64encode(hmac.digest(each, content, hashlib.sha256)).decode() for each in secrets)
    return {
        "webhook-id": str(event),
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }
