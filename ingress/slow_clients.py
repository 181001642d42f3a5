"""An HTTP connection that does not wait for ever: slow headers, slow readers and too many idle connections are closed.

uvicorn bounds idle time after an answer alone; whoever sends one byte of a header now and then would keep a connection,
and enough of them would keep everybody else out. Bodies are timed by `ingress.bodies`, which can answer for them.

Source: uvicorn 0.54.0, protocols/http/h11_impl.py, read 2026-11-22.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADERS_WITHIN_S = 10.0
_READ_WITHIN_S = 30.0
# Below the usual limit of 1024 open files, with room for Postgres, Redis and logs.
_MOST_CONNECTIONS = 800


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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start waiting for the first request; make room when too many others only wait as well."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as uvicorn narrows it
        if len(self.connections) > self.most_connections:
            self._make_room()
        self.waits_since = self.loop.time()
        self._headers_clock = self.loop.call_later(self.headers_within_s, self._give_up_on_headers)

    def on_response_complete(self) -> None:
        """Wait for the next request of this connection."""
        self.waits_since = self.loop.time()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock for headers goes on until a request is whole."""
        super().data_received(data)
        if not self.is_between_requests:
            self._stop(self._headers_clock)
            self._headers_clock = None
        elif self._headers_clock is None:
            self._headers_clock = self.loop.call_later(self.headers_within_s, self._give_up_on_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop(self._headers_clock)
        self._stop(self._reader_clock)
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

    def _give_up_on_headers(self) -> None:
        self._headers_clock = None
        if self.is_between_requests:
            self.transport.close()

    def _make_room(self) -> None:
        others = [each for each in self.connections if isinstance(each, PatientProtocol) and each is not self]
        idle = [each for each in others if each.is_between_requests]
        min(idle, key=lambda each: each.waits_since, default=self).transport.abort()

    @staticmethod
    def _stop(clock: asyncio.TimerHandle | None) -> None:
        if clock is not None:
            clock.cancel()
