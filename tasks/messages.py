"""What a message must look like before kombu and Celery work with it: the one place that knows every shape.

Celery's worker ends on a message whose parts have other types than it expects, and the message then ends the next one.
So everything that it reads without looking is checked here first: the envelope before it becomes a message (`opened`),
headers and body before the task's strategy sees them (`called`). What is not described here is refused.
"""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from celery.app.task import Context
from kombu.exceptions import KombuError
from kombu.message import Message
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from delivery.errors import FieldIssue
from delivery.refused import masked_copy

# The largest command is 16,000,000 bytes of JSON, a third more in base64.
MOST_BYTES = 24_000_000
# All but the body. kombu writes it to Redis again for as long as a worker holds the message.
_MOST_BESIDE = 256_000
# Each value costs memory, in a body and beside it: ten million empty lists fit into 20 MB and fill 700 MB.
_MOST_VALUES = 100_000
_DEEPEST = 50
_SMALL = 100_000
# A text to its end, which may be missing: without that `?`, each quote of a text without an end is tried anew.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# 2 to this power is what Celery computes for its backoff.
_MOST_RETRIES = 100_000

_PARTS = ("args", "kwargs", "embed")

_Text = Annotated[str, StringConstraints(max_length=4096)]
_Id = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
_Seconds = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]
_Scalar = bool | Annotated[int, Field(ge=-(2**63), lt=2**64)] | float | _Text | None
_Nothing = Annotated[list[Any], Field(max_length=0)] | None


def _is_instant(text: str) -> str:
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    return text


_Instant = Annotated[str, StringConstraints(max_length=64), AfterValidator(_is_instant)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Properties(_Strict):
    """What kombu reads; `delivery_info` is written anew."""

    delivery_tag: _Id
    body_encoding: Literal["base64"]
    correlation_id: _Text | None = None
    reply_to: _Text | None = None
    delivery_mode: Annotated[int, Field(ge=0, le=9)] | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None


class _Envelope(_Strict):
    """What a client puts into Redis."""

    body: str
    content_type: Annotated[Literal["application/json"], Field(alias="content-type")]
    content_encoding: Annotated[_Text | None, Field(alias="content-encoding")] = None
    headers: dict[str, Any]
    properties: _Properties


class _Headers(_Strict):
    """What Celery reads; other headers, such as those of tracing, may hold plain values."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    __pydantic_extra__: dict[_Text, _Scalar | list[_Scalar] | dict[_Text, _Scalar | list[_Scalar]]]

    task: _Text
    id: _Id
    lang: _Text | None = None
    shadow: _Text | None = None
    root_id: _Text | None = None
    parent_id: _Text | None = None
    group: _Text | None = None
    group_index: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    taskset: _Text | None = None
    origin: _Text | None = None
    argsrepr: _Text | None = None
    kwargsrepr: _Text | None = None
    eta: _Instant | None = None
    expires: _Instant | None = None
    retries: Annotated[int, Field(ge=0, le=_MOST_RETRIES)] | None = None
    timelimit: Annotated[list[_Seconds | None], Field(min_length=2, max_length=2)] | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: Annotated[int, Field(ge=0, le=1000)] | None = None
    stamped_headers: list[_Text] | None = None
    stamps: dict[_Text, _Scalar | list[_Scalar]] | None = None
    headers: dict[_Text, _Scalar | list[_Scalar]] | None = None
    utc: bool | None = None
    redelivered: bool | None = None


class _Embed(BaseModel):
    """What Celery would do afterwards. A stranger's message starts nothing else, so all of it is empty."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    callbacks: _Nothing = None
    errbacks: _Nothing = None
    chain: _Nothing = None
    chord: None = None


class _Body(_Strict):
    args: list[Any]
    named: Annotated[dict[str, Any], Field(alias="kwargs")]
    embed: _Embed | None = None


# Names that Celery's request has as attributes: a header of that name would take the attribute's place.
_TAKEN = frozenset(dir(Context)) - _Headers.model_fields.keys()


class Malformed(Exception):
    """A message that no task can take.

    Attributes:
        reason: Stable word, e.g. "too_large".
        issues: Which fields, and how; never a value.
    """

    def __init__(self, reason: str, *issues: FieldIssue) -> None:
        super().__init__(reason, *issues)
        self.reason = reason
        self.issues = issues


def opened(item: bytes, queue: str) -> Any:
    """Return the envelope of what was taken from a queue, safe for kombu; a restored message goes back to this queue.

    Raises:
        Malformed: It is too large, has too many values, is not JSON, is compressed, or its parts have the wrong types.
    """
    if len(item) > MOST_BYTES:
        raise Malformed("too_large", FieldIssue("message", f"at most {MOST_BYTES} bytes"))
    raw = _parsed(item)
    check_envelope(raw)
    if len(item) - len(raw["body"]) > _MOST_BESIDE:
        raise Malformed("too_large", FieldIssue("headers", f"at most {_MOST_BESIDE} bytes"))
    raw["properties"]["delivery_info"] = {"exchange": "", "routing_key": queue}
    return raw


def check_envelope(raw: Any) -> None:
    """Check the types of an envelope.

    Raises:
        Malformed: It is compressed, or its parts have the wrong types.
    """
    if not isinstance(raw, dict):
        raise Malformed("unreadable", FieldIssue("message", "not_an_object"))
    headers = raw.get("headers")
    if isinstance(headers, dict) and headers.get("compression"):
        raise Malformed("compressed", FieldIssue("headers.compression", "not_accepted"))
    _check(_Envelope, raw, "unreadable")
    _check_depth([headers, raw["properties"]], "headers")
    try:
        base64.b64decode(raw["body"])
    except ValueError:
        raise Malformed("unreadable", FieldIssue("body", "not_base64")) from None


def called(message: Message) -> tuple[str, list[Any], dict[str, Any]]:
    """Return which task a message with a checked envelope calls, and with what.

    Raises:
        Malformed: It calls no task, or not as Celery's protocol 2 or 1 says.
    """
    headers, parsed = message.headers, _decoded(message)
    _check_depth(parsed, "body")
    if "task" in headers:
        return _called(headers, _parts(parsed))
    if not isinstance(parsed, dict) or "task" not in parsed:
        raise Malformed("not_a_task", FieldIssue("headers.task", "missing"))
    # Protocol 1: everything stands in the body, and Celery lets headers replace it.
    parts = {name: parsed.get(name) for name in ("callbacks", "errbacks", "chord")}
    rest = {name: value for name, value in parsed.items() if name not in {"args", "kwargs", *parts}}
    return _called({**rest, **headers}, {"args": parsed.get("args"), "kwargs": parsed.get("kwargs"), "embed": parts})


def copy_of(item: bytes) -> str:
    """Return the masked copy of what was taken from a queue and is no message."""
    try:
        return masked_copy(_parsed(item[: MOST_BYTES // 10]))
    except Malformed:
        return masked_copy(item)


def _parts(parsed: object) -> dict[str, object]:
    if not isinstance(parsed, list):
        raise Malformed("malformed", FieldIssue("body", "not_a_list"))
    if len(parsed) != len(_PARTS):
        raise Malformed("malformed", FieldIssue("body", "not_three_parts"))
    return dict(zip(_PARTS, parsed, strict=True))


def _called(headers: Mapping[str, Any], parts: Mapping[str, Any]) -> tuple[str, list[Any], dict[str, Any]]:
    _check(_Headers, headers, "malformed")
    if taken := sorted(_TAKEN & headers.keys()):
        raise Malformed("malformed", FieldIssue(f"headers.{taken[0]}", "reserved"))
    _check(_Body, parts, "malformed")
    return headers["task"], parts["args"], parts["kwargs"]


def _check(model: type[BaseModel], value: Mapping[str, Any], reason: str) -> None:
    try:
        model.model_validate(value)
    except ValidationError as err:
        found = err.errors(include_url=False, include_input=False, include_context=False)
        within = {_Headers: "headers.", _Body: "body."}.get(model, "")
        issues = (FieldIssue(within + ".".join(map(str, each["loc"])), each["type"]) for each in found)
        raise Malformed(reason, *issues) from None


def _parsed(item: bytes) -> Any:
    _check_count(item, "message")
    try:
        return json.loads(item.decode("utf-8"))
    except (ValueError, RecursionError) as err:  # not UTF-8, not JSON, a number of thousands of digits, nested deeply
        raise Malformed("unreadable", FieldIssue("message", type(err).__name__)) from None


def _decoded(message: Message) -> object:
    _check_count(message.body, "body")
    try:
        return message.decode()
    except KombuError as err:
        raise Malformed("unreadable", FieldIssue("body", type(err.__cause__ or err).__name__)) from None


def _check_count(raw: bytes, what: str) -> None:
    if len(raw) > _SMALL:
        bare = _STRING.sub(b"", raw)
        if sum(map(bare.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise Malformed("too_large", FieldIssue(what, f"at most {_MOST_VALUES} values"))


def _check_depth(value: object, what: str) -> None:
    """Look at each level of what was parsed: a stack of calls must never depend on a message."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [each for group in level if isinstance(group, dict | list) for each in _inner(group)]
        if not level:
            return
    raise Malformed("malformed", FieldIssue(what, f"nested deeper than {_DEEPEST}"))


def _inner(group: dict[str, Any] | list[Any]) -> list[Any]:
    return [each for each in (group.values() if isinstance(group, dict) else group) if isinstance(each, dict | list)]
