"""Long polls: who waits for news of a delivery is told when it comes. One question to the ledger serves them all."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from uuid import UUID

from fastapi.concurrency import run_in_threadpool

from delivery.errors import LedgerUnavailable

Standing = tuple[str, str | None]
"""State and progress."""


class Follower:
    """Watches deliveries on behalf of all long polls of this process. Belongs to one event loop.

    Args:
        look: Asks the ledger for the standing of some deliveries; runs in a thread.
        every_s: Time between two questions, whatever the number of those who wait.
        most: Waiting at the same time; one more is not kept waiting.
    """

    def __init__(
        self,
        look: Callable[[Collection[UUID]], Mapping[UUID, Standing]],
        *,
        every_s: float = 0.25,
        most: int = 200,
    ) -> None:
        self._look = look
        self._every_s = every_s
        self._most = most
        self._waiting: dict[asyncio.Future[None], tuple[UUID, Standing]] = {}
        self._rounds: asyncio.Task[None] | None = None

    async def news(self, delivery_id: UUID, seen: Standing, *, within_s: float) -> None:
        """Return once a delivery stands otherwise than it was seen, and is not just being attempted; or in time."""
        if len(self._waiting) >= self._most:
            return
        told = asyncio.get_running_loop().create_future()
        self._waiting[told] = (delivery_id, seen)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._go_round())
        try:
            await asyncio.wait({told}, timeout=within_s)
        finally:
            del self._waiting[told]

    async def _go_round(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._every_s)  # a clock for everybody; no thread and no connection waits with it
            wanted = {delivery_id for delivery_id, _ in self._waiting.values()}
            try:
                found = await run_in_threadpool(self._look, wanted)
            except LedgerUnavailable:
                continue  # those who wait ask for themselves when their time is up, and are told then
            for told, (delivery_id, seen) in self._waiting.items():
                now = found.get(delivery_id, seen)
                if now != seen and now[0] != "attempting" and not told.done():
                    told.set_result(None)
