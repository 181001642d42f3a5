"""Reads request bodies, and stops reading what is too large, too slow or too much at once.

Doors ask for the raw bytes here, so that nothing is parsed before key, type and size are known. Callers who proved
nothing have a reader of their own, so that their bodies take no room from anybody else's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from delivery.issues import field_issues
from ingress.problems import Language, Problem
from ingress.strict_json import MOST_VALUES, UnacceptableJson, parse_json

JSON = "application/json"
NDJSON = "application/x-ndjson"

MOST_SMALL_BYTES = 20_000

_RETRY_S = 2
_AHEAD_S = 0.1  # bytes of so much time may come at once
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(eq=False)
class _Body:
    """One body on its way in."""

    clock: asyncio.Timeout | None = None
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    gave_way: bool = False


@dataclass
class BodyReader:
    """Reads bodies within limits that all requests which share it share.

    Attributes:
        most_bytes: Bytes of bodies being read or worked on at the same time; more is turned away.
        within_s: A body that takes longer is cut off.
        least_bytes_per_s: With it, `within_s` holds for an empty body only: each byte that comes earns more time.
        most_bytes_per_s: Bytes of all bodies together are read no faster: taking them in costs processor time.
        most_unfinished: Bodies being read at the same time; one more makes the oldest of them give way.
        gives_way: Where there is no room for a new byte, the oldest unfinished body gives way to it. A sender that
            stalls then takes nothing from one that sends.
    """

    most_bytes: int = 128_000_000
    within_s: float = 30
    least_bytes_per_s: float | None = None
    most_bytes_per_s: float | None = None
    most_unfinished: int | None = None
    gives_way: bool = False
    _held: int = 0
    _next_at: float = 0
    _unfinished: dict[_Body, None] = field(default_factory=dict)

    @asynccontextmanager
    async def reading(self, request: Request, *, types: tuple[str, ...] | None, max_bytes: int) -> AsyncIterator[bytes]:
        """Give the whole body as it came, and count it as held until the block ends.

        Args:
            types: Media types that are taken; None takes any, where something else proves the bytes.

        Raises:
            Problem: The type is not one of `types`, or the body is too large, too slow, or one too many.
        """
        if types is not None:
            _check_type(request, types)
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise Problem("too_large", most=max_bytes)
        body = _Body()
        try:
            await self._collect_in_time(request, body, max_bytes)
            yield b"".join(body.chunks)
        finally:
            self._held -= body.size

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Count bytes that another reader has read as held until the block ends.

        Raises:
            Problem: Too much is held.
        """
        if self._held + size > self.most_bytes:
            raise Problem("busy", retry_after_s=_RETRY_S)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def _collect_in_time(self, request: Request, body: _Body, max_bytes: int) -> None:
        self._unfinished[body] = None
        if self.most_unfinished is not None and len(self._unfinished) > self.most_unfinished:
            self._let_oldest_give_way()
        try:
            async with asyncio.timeout(self.within_s) as body.clock:
                await self._collect(request, body, max_bytes)
        except TimeoutError:
            raise self._late(body) from None
        except (
            ClientDisconnect
        ):  # by the caller, or by us, to make room: nobody reads the answer, and no body was wrong
            raise self._late(body) from None
        finally:
            self._unfinished.pop(body, None)
        if body.gave_way:
            raise self._late(body)

    async def _collect(self, request: Request, body: _Body, max_bytes: int) -> None:
        async for chunk in request.stream():
            if body.size + len(chunk) > max_bytes:
                raise Problem("too_large", most=max_bytes)
            while self.gives_way and self._held + len(chunk) > self.most_bytes and len(self._unfinished) > 1:
                self._let_oldest_give_way(newest=body)
            if self._held + len(chunk) > self.most_bytes:
                raise Problem("busy", retry_after_s=_RETRY_S)
            self._held += len(chunk)
            body.size += len(chunk)
            body.chunks.append(chunk)
            self._earn_time(body, len(chunk))
            await self._keep_pace(len(chunk))

    async def _keep_pace(self, size: int) -> None:
        if self.most_bytes_per_s is not None:
            now = asyncio.get_running_loop().time()
            self._next_at = max(now, self._next_at) + size / self.most_bytes_per_s
            if self._next_at > now + _AHEAD_S:
                await asyncio.sleep(self._next_at - now - _AHEAD_S)

    def _earn_time(self, body: _Body, size: int) -> None:
        until = body.clock.when() if body.clock and not body.clock.expired() else None
        if body.clock and until and self.least_bytes_per_s:
            body.clock.reschedule(until + size / self.least_bytes_per_s)

    def _let_oldest_give_way(self, newest: _Body | None = None) -> None:
        oldest = next(each for each in self._unfinished if each is not newest)
        del self._unfinished[oldest]
        self._held -= oldest.size
        oldest.size, oldest.gave_way = 0, True
        oldest.chunks.clear()
        if oldest.clock and not oldest.clock.expired():
            oldest.clock.reschedule(0)

    def _late(self, body: _Body) -> Problem:
        if body.gave_way:
            return Problem("busy", retry_after_s=_RETRY_S)
        return Problem("too_slow", seconds=self.within_s)


def parsed_object(raw: bytes, *, most_values: int = MOST_VALUES) -> dict[str, object]:
    """Return the one JSON object that a body must be. A large one takes a while, so not on the event loop.

    Raises:
        Problem: It is not.
    """
    try:
        value = parse_json(raw, most_values=most_values)
    except UnacceptableJson as err:
        raise Problem("invalid_json", why=err.why) from None
    if not isinstance(value, dict):
        raise Problem("invalid_json", why=("deve ser um objeto", "it must be an object"))
    return value


def checked(model: type[_Model], raw: bytes, language: Language) -> _Model:
    """Return a body as this model.

    Raises:
        Problem: It is no JSON object, or a field of it is wrong.
    """
    try:
        return model.model_validate(parsed_object(raw))
    except ValidationError as err:
        raise Problem("invalid_command", details=field_issues(err, language)) from None  # the cause holds the values


def media_type(request: Request) -> str:
    """Return the body's type in lower case, without parameters; empty when none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_type(request: Request, types: tuple[str, ...]) -> None:
    _, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.lower().replace('"', "").replace(" ", "").partition("charset=")[2].partition(";")[0]
    coded = request.headers.get("content-encoding", "identity").lower() != "identity"
    if media_type(request) not in types or charset not in {"", "utf-8", "utf8", "us-ascii"} or coded:
        raise Problem("wrong_media_type", wanted=" / ".join(types))
