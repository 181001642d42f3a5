"""Messages of every wrong shape, as a foreign client with a fault puts them into Redis. Each of them is refused.

Thirteen of them ended a worker, and then the next one, before shapes were checked; two came back every five minutes.
"""

import base64
import bz2
import json
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

_LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
GOOD_BODY: list[Any] = [[], _LEAD, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


ABSENT = "(absent)"
_NO_HEADERS = dict.fromkeys(("lang", "task", "id", "retries"), ABSENT)


def item(body: object = GOOD_BODY, *, headers: Any = None, properties: Any = None, **parts: object) -> bytes:
    """Return a message as it stands in Redis.

    Args:
        body: What is written as JSON; bytes stay as they are.
        headers: An object changes good ones, ABSENT takes one away; anything else replaces them all.
        properties: As `headers`.
        parts: Other parts of the envelope, with _ for -.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    own = str(uuid.uuid4())
    good = {
        "correlation_id": own, "delivery_mode": 2, "priority": 0, "body_encoding": "base64", "delivery_tag": own,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
    }  # fmt: skip
    message = {
        "body": base64.b64encode(raw).decode(), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": _changed({"lang": "py", "task": "create_lead", "id": own, "retries": 0}, headers or {}),
        "properties": _changed(good, properties or {}),
    }  # fmt: skip
    return json.dumps(message | {name.replace("_", "-"): value for name, value in parts.items()}).encode()


def _changed(good: dict[str, Any], changes: Any) -> Any:
    if not isinstance(changes, dict):
        return changes
    return {name: value for name, value in (good | changes).items() if value != ABSENT}


def header(**headers: Any) -> bytes:
    """Return a message with other headers."""
    return item(headers=headers)


def prop(**properties: Any) -> bytes:
    """Return a message with other properties."""
    return item(properties=properties)


def bomb(module: Any = bz2, size: int = 200_000_000) -> bytes:
    """Return a few hundred bytes that fill memory once they are unpacked."""
    name = {"bz2": "application/x-bz2", "zlib": "application/x-gzip"}[module.__name__]
    packed = module.compress(b"[" + b" " * size + b"]")
    return item(packed, headers={"compression": name})


# A name that says what is wrong, and the message.
SHAPES: Mapping[str, bytes] = {
    # The body.
    "body []": item([]),
    "body [[], {}]": item([[], {}]),
    "body of four": item([[], {}, {}, 1]),
    'body "abcd"': item("abcd"),
    'body "abc"': item("abc"),
    "body 5": item(5),
    "body null": item(None),
    "body true": item(True),  # noqa: FBT003 - JSON
    "body {}": item({}),
    "body empty": item(b""),
    "body not JSON": item(b"{"),
    "body not UTF-8": item(b"\xff\xfe"),
    "body nested": item(b"[" * 5000 + b"]" * 5000),
    "body with a number of 5,000 digits": item(b"[[" + b"9" * 5000 + b"], {}, null]"),
    "body of an unknown type": item([[{"__type__": "x", "__value__": 1}], {}, None]),
    "body of a type that cannot be": item([[{"__type__": "uuid", "__value__": 5}], {}, None]),
    "args an object": item([{}, {}, None]),
    "args a text": item(["abc", {}, None]),
    "args null": item([None, _LEAD, None]),
    "kwargs a list": item([[], [], None]),
    "kwargs null": item([[], None, None]),
    "kwargs named self": item([[], {**_LEAD, "self": 1}, None]),
    "embed a list": item([[], _LEAD, []]),
    "embed a text": item([[], _LEAD, "x"]),
    "embed with callbacks": item([[], _LEAD, {"callbacks": 5}]),
    "embed with a chain": item([[], _LEAD, {"chain": [{"task": "sweep", "args": []}]}]),
    "embed with a strange name": item([[], _LEAD, {"delivery_info": 5}]),
    # Headers.
    "headers a list": item(headers=["x"]),
    "headers a number": item(headers=5),
    "id a list": header(id=["x"]),
    "id null": header(id=None),
    "id an object": header(id={}),
    "id with a line break": header(id="a\nb"),
    "task a list": header(task=["create_lead"]),
    "task an object": header(task={}),
    "task null": header(task=None),
    "timelimit a number": header(timelimit=5),
    "timelimit of three": header(timelimit=[1, 2, 3]),
    "timelimit of texts": header(timelimit=["x", "y"]),
    "expires an object": header(expires={"x": 1}),
    "expires a number": header(expires=5),
    "expires no instant": header(expires="tomorrow"),
    "eta an object": header(eta={}),
    "eta no instant": header(eta="soon"),
    "eta past the end of time": header(eta="9999-12-31T23:59:59-23:59"),
    "stamps a number": header(stamps=5, stamped_headers=["x"]),
    "stamped_headers a number": header(stamped_headers=5),
    "retries a text": header(retries="many"),
    "retries without end": header(retries=10**12),
    "retries below zero": header(retries=-1),
    "root_id a list": header(root_id=[]),
    "shadow a number": header(shadow=5),
    "argsrepr a list": header(argsrepr=[]),
    "origin an object": header(origin={}),
    "ignore_result a text": header(ignore_result="x"),
    "a header in the place of a method": header(update=5, get=5),
    "a header in the place of a state": header(is_eager=True, called_directly=True),
    "a header nested deeply": header(trace=json.loads("[" * 60 + "]" * 60)),
    "compression": bomb(size=1000),
    "compression of another name": bomb(zlib, size=1000),
    "compression unknown": header(compression="application/x-nonsense"),
    # Properties and the envelope.
    "properties a list": item(properties=["x"]),
    "properties a text": item(properties="x"),
    "delivery_tag missing": prop(delivery_tag=ABSENT),
    "delivery_tag an object": prop(delivery_tag={}),
    "delivery_tag a number": prop(delivery_tag=5),
    "body_encoding unknown": prop(body_encoding="rot13"),
    "body_encoding missing": prop(body_encoding=ABSENT),
    "priority a list": prop(priority=[]),
    "reply_to an object": prop(reply_to={}),
    "correlation_id a list": prop(correlation_id=[]),
    "body not base64": item().replace(b'"body": "', b'"body": "x'),
    "content type pickle": item(content_type="application/x-python-serialize"),
    "content type a list": item(content_type=["application/json"]),
    "content encoding a number": item(content_encoding=5),
    "envelope a list": b"[1, 2]",
    "envelope empty": b"{}",
    "envelope of a body alone": b'{"body": "x"}',
    "envelope of a tag alone": b'{"properties": {"delivery_tag": "1"}}',
    "envelope nested": b'{"body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "envelope with a number of 5,000 digits": b'{"body": ' + b"9" * 5000 + b"}",
    "envelope of a type that cannot be": b'{"__type__": "decimal", "__value__": "x"}',
    "not JSON": b"garbage",
    "not UTF-8": b"\xff\x00",
    "a number of two million digits": b"9" * 2_000_000,
    "a pickle": b"\x80\x04N.",
    # What no task of the foreign queue is.
    "task unknown": header(task="no_such_task"),
    "task of Celery's own": header(task="celery.map"),
    "task for upkeep": item([[], {}, None], headers={"task": "sweep"}),
    "two arguments": item([["one", "two"], {}, None]),
    "no id": item([["not-an-id"], {}, None]),
    "protocol 1, id a list": item({"task": "create_lead", "id": [], "args": [], "kwargs": _LEAD}, headers=_NO_HEADERS),
}
