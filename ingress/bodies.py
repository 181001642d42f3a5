"""Reads request bodies, and stops reading what is too large, too slow or too much at once.

Doors ask for the raw bytes here, so that nothing is parsed before key, type and size are known.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from ingress.problems import Language, Problem, field_issues
from ingress.strict_json import UnacceptableJson, parse_json

JSON = "application/json"
NDJSON = "application/x-ndjson"

MOST_SMALL_BYTES = 20_000

_RETRY_S = 2
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass
class BodyReader:
    """Reads bodies within limits that all requests of this process share.

    Attributes:
        most_at_once: Bytes of bodies being read or worked on at the same time; more is turned away.
        within_s: A body that takes longer is cut off.
    """

    most_at_once: int = 128_000_000
    within_s: float = 30
    _held: int = 0

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
        chunks: list[bytes] = []
        try:
            await self._collect_in_time(request, chunks, max_bytes)
            yield b"".join(chunks)
        finally:
            self._held -= sum(map(len, chunks))

    async def _collect_in_time(self, request: Request, chunks: list[bytes], max_bytes: int) -> None:
        try:
            async with asyncio.timeout(self.within_s):
                await self._collect(request, chunks, max_bytes)
        except TimeoutError:
            raise Problem("too_slow", seconds=self.within_s) from None
        except ClientDisconnect:
            raise Problem("invalid_request") from None

    async def _collect(self, request: Request, chunks: list[bytes], max_bytes: int) -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise Problem("too_large", most=max_bytes)
            if self._held + len(chunk) > self.most_at_once:
                raise Problem("busy", retry_after_s=_RETRY_S)
            self._held += len(chunk)
            chunks.append(chunk)


def parsed_object(raw: bytes) -> dict[str, object]:
    """Return the one JSON object that a body must be.

    Raises:
        Problem: It is not.
    """
    try:
        value = parse_json(raw)
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
