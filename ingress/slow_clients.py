"""HTTP connections with time limits, of which strangers cannot take all.

uvicorn limits only how long a connection may be idle after an answer. A client that sends one byte of a header now and
then would keep its connection, and enough such clients would take all of them. Here clients that send headers slowly or
read answers slowly are cut off as well. When there are too many connections, the oldest one without a known key or a
verified webhook is closed for a new one. `ingress.bodies` limits the time of bodies, because it can send an error.

Source: uvicorn 0.54.0, protocols/http/h11_impl.py, read 2026-11-22.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ingress.guard import Guard, Weight, late_refusal
from ingress.strangers import PROVED, slowed_s

_HEADERS_WITHIN_S = 10.0
_READ_WITHIN_S = 30.0
_MOST_CONNECTIONS = 10_000
_MOST_EARLY_BYTES = 100_000


class PatientProtocol(H11Protocol):
    """uvicorn's own protocol with clocks."""

    headers_within_s = _HEADERS_WITHIN_S
    read_within_s = _READ_WITHIN_S
    most_connections = _MOST_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waits_since = 0.0
        self._headers_clock: asyncio.TimerHandle | None = None
        self._reader_clock: asyncio.TimerHandle | None = None
        self._guard: Guard = self.config.app.state.guard  # type: ignore[union-attr]  # `create_web` made it
        self._host = ""
        self._early = bytearray()  # what came so far of a request that is weighed before it is parsed
        self._refusal_clock: asyncio.TimerHandle | None = None
        self._stands_in: Weight | None = None  # the line of turns in which it waits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start waiting for the first request; make room when too many others only wait as well."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as uvicorn narrows it
        self._host = self.client[0] if self.client else ""
        if not self._guard.is_proxy(self._host):
            self._guard.unproved[self.transport] = None
        most = min(self.most_connections, self._guard.most_connections)
        if len(self._guard.unproved) > most // 2 or len(self.connections) > most:
            self._make_room()
        self.waits_since = self.loop.time()
        self._headers_clock = self.loop.call_later(self.headers_within_s, self._give_up_on_headers)

    def on_response_complete(self) -> None:
        """Wait for the next request of this connection."""
        self.waits_since = self.loop.time()
        if self.scope["state"].get(PROVED):
            self._guard.unproved.pop(self.transport, None)
        elif self.transport in self._guard.unproved and self.conn.trailing_data[0]:
            self.transport.close()  # more requests came with this one, and none of them was weighed
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock for headers goes on until a request is whole."""
        if self._early or self._begins_unproved():
            self._early += data
            self._weigh()
        else:
            super().data_received(data)
        if not self.is_between_requests:
            self._stop(self._headers_clock)
            self._headers_clock = None
        elif self._headers_clock is None:
            self._headers_clock = self.loop.call_later(self.headers_within_s, self._give_up_on_headers)

    def _begins_unproved(self) -> bool:
        # Only a request that begins here: of one that began before, the key may already have come.
        return self.transport in self._guard.unproved and self.is_between_requests and not self.conn.trailing_data[0]

    def _weigh(self, *, has_turn: bool = False) -> None:
        weight = self._guard.weigh(self._host, bytes(self._early))
        if weight == "parse" or (has_turn and weight in {"first", "turn"}):
            self._parse()
            return
        if weight == "first":  # it is whole, and its line is short: it gets its turn however busy the machine is
            self._stop(self._refusal_clock)
        elif self._refusal_clock is None:
            self._refusal_clock = self.loop.call_later(slowed_s(), self._refuse_late)
        # One that waits for a turn may still become whole, and then comes first.
        if weight in {"first", "refuse"} or len(self._early) > _MOST_EARLY_BYTES:
            self.flow.pause_reading()
        if weight in {"first", "turn"} and weight != self._stands_in:
            self._stands_in = weight
            self._guard.strangers.turns.wait(self._take_turn, first=weight == "first")

    def _take_turn(self) -> bool:
        if not self._early or self.transport.is_closing():
            return False  # the caller went away
        self.flow.resume_reading()
        self._weigh(has_turn=True)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and keep nothing of what came while it waits in a line of turns."""
        self._early.clear()
        self._guard.unproved.pop(self.transport, None)
        self._stop(self._headers_clock)
        self._stop(self._reader_clock)
        self._stop(self._refusal_clock)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time, then drop it: its answer holds memory."""
        super().pause_writing()
        self._reader_clock = self.loop.call_later(self.read_within_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop(self._reader_clock)
        super().resume_writing()

    @property
    def is_between_requests(self) -> bool:
        """True while nothing is asked: before the first request is whole, and after an answer."""
        return self.cycle is None or self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and count it as a refusal of its address."""
        self._guard.strangers.refused["other"].count(self._host)
        super().send_400_response(msg)

    def _parse(self) -> None:
        self._stop(self._refusal_clock)
        self._refusal_clock = None
        self.flow.resume_reading()
        early, self._early, self._stands_in = bytes(self._early), bytearray(), None
        super().data_received(early)

    def _refuse_late(self) -> None:
        if not self._early or self.transport.is_closing():
            return
        if self._guard.has_known_key(bytes(self._early)):  # made a moment before it came, and listed meanwhile
            self._parse()
            return
        self.transport.write(late_refusal())
        self.transport.close()

    def _give_up_on_headers(self) -> None:
        self._headers_clock = None
        if self.is_between_requests:
            self.transport.close()

    def _make_room(self) -> None:
        oldest = next(iter(self._guard.unproved), self.transport)
        if oldest is not self.transport:
            self._guard.unproved.pop(oldest)  # its end is told later, and more may come before that
            oldest.abort()
            return
        others = [each for each in self.connections if isinstance(each, PatientProtocol) and each is not self]
        idle = [each for each in others if each.is_between_requests]
        min(idle, key=lambda each: each.waits_since, default=self).transport.abort()

    @staticmethod
    def _stop(clock: asyncio.TimerHandle | None) -> None:
        if clock is not None:
            clock.cancel()
