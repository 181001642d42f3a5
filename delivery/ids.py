"""Delivery ids: UUID version 7, so that ids sort by the time of acceptance and index well."""

import secrets
import time
from uuid import UUID


def new_id(*, now_ms: int | None = None) -> UUID:
    """Return a fresh UUIDv7.

    Args:
        now_ms: Unix time in milliseconds; the present when None.

    Source: RFC 9562, section 5.7, read 2026-11-22.
    """
    stamp = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    random = secrets.randbits(74)
    high = (stamp & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (random >> 62) << 64
    return UUID(int=high | 0b10 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF)
