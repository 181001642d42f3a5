"""What the WhatsApp stand-in would tell later: status events, put where a webhook door puts them.

They come as such events come: late, out of order, each twice, some before the answer to the send. So a delivery whose
answer was lost is settled by evidence.
"""

import random
import threading
import time
from collections.abc import Sequence
from typing import Self

from sqlalchemy import text

from delivery.errors import LedgerUnavailable
from ledger.database import transaction
from sandbox.doors import SandboxError
from tests.faults.ground import Ground

_ACCOUNT = "whatsapp:default"
_LATEST_S = 5.0  # well within the time that evidence may take, also when Postgres restarts meanwhile
_INSERT = text("""
    INSERT INTO inbound_events (account, key, delivery_id, status, receipt)
    SELECT :account, receipt || '/' || status, delivery_id, status, receipt
    FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:receipts AS text[]))
      AS told (delivery_id, status, receipt)
    ON CONFLICT (account, key) DO NOTHING
""")

_Event = tuple[float, str, str, str]  # when to tell it, delivery id, status, the provider's id


class StatusEvents:
    """Tells events from a thread of its own until the block ends."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.told = 0
        self._ground = ground
        self._rng = random.Random(f"{seed}/events")
        self._coming: list[_Event] = []
        self._seen = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell_all, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _tell_all(self) -> None:
        while not self._ended.wait(0.5):
            try:
                self._hear()
                self._tell()
            except (SandboxError, LedgerUnavailable):  # the stand-in is busy, or Postgres away: told a little later
                continue

    def _hear(self) -> None:
        fresh = self._ground.control["graph"].effects(skip=self._seen)
        self._seen += len(fresh)
        now = time.monotonic()
        for each in fresh:
            statuses = self._rng.choice((("sent",), ("sent", "delivered"), ("sent", "delivered", "read")))
            for status in statuses * 2:  # at least once means twice
                at = now + self._rng.uniform(0, _LATEST_S)
                self._coming.append((at, str(each["key"]), status, str(each["wamid"])))

    def _tell(self) -> None:
        now = time.monotonic()
        due = [each for each in self._coming if each[0] <= now]
        if due:
            self._rng.shuffle(due)
            self._insert(due)
            self._coming = [each for each in self._coming if each[0] > now]
            self.told += len(due)

    def _insert(self, due: Sequence[_Event]) -> None:
        _, ids, statuses, receipts = zip(*due, strict=True)
        values = {"account": _ACCOUNT, "ids": list(ids), "statuses": list(statuses), "receipts": list(receipts)}
        with transaction(self._ground.books) as connection:
            connection.execute(_INSERT, values)
