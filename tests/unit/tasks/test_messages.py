import base64
import json
import time

import pytest
from celery.backends.base import DisabledBackend
from kombu.message import Message

from tasks import app
from tasks.messages import MOST_BYTES, Malformed, called, copy_of, opened
from tests.faults.shapes import _NO_HEADERS, GOOD_BODY, SHAPES, bomb, header, item

OF_THE_TASK = {"kwargs named self", "task unknown", "task of Celery's own", "task for upkeep", "two arguments", "no id"}
LEAD = GOOD_BODY[1]


def read(raw):
    """Read a message as the worker does, up to its task."""
    found = opened(raw, "celery")
    return called(
        Message(
            base64.b64decode(found["body"]),
            content_type=found["content-type"],
            content_encoding=found["content-encoding"],
            headers=found["headers"],
            properties=found["properties"],
        )
    )


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - OF_THE_TASK))
def test_a_message_of_a_wrong_shape_is_refused_before_celery_works_with_it(name):
    with pytest.raises(Malformed) as refused:
        read(SHAPES[name])

    assert refused.value.reason in {"unreadable", "malformed", "not_a_task", "compressed", "too_large"}
    assert all(each.field and each.issue for each in refused.value.issues)


@pytest.mark.parametrize(
    "raw",
    [
        item(),
        item([[LEAD], {}, None]),
        item([["0193e0a0-0000-7000-8000-000000000000"], {}, {}]),
        header(eta="2030-01-01T00:00:00+00:00", expires="2030-01-01T00:00:00", timelimit=[None, 30.5], retries=7),
        header(traceparent="00-ab-cd-01", headers={"baggage": "x"}, stamps={"a": ["b"]}, stamped_headers=["a"]),
        header(group="g", group_index=0, ignore_result=True, replaced_task_nesting=0, shadow=None, origin="gen1@host"),
        item({"task": "create_lead", "id": "1", "args": [], "kwargs": LEAD, "utc": True}, headers=_NO_HEADERS),
    ],
)
def test_what_celery_clients_send_is_read(raw):
    name, args, kwargs = read(raw)

    assert name == "create_lead"
    assert args or kwargs == LEAD


def test_a_message_goes_back_to_the_queue_that_it_came_from_whatever_it_says():
    found = opened(item(properties={"delivery_info": {"exchange": "other", "routing_key": "upkeep"}}), "celery")

    assert found["properties"]["delivery_info"] == {"exchange": "", "routing_key": "celery"}


def test_a_message_without_delivery_info_is_read():
    assert opened(item(properties={"delivery_info": "x"}), "crm")["properties"]["delivery_info"]["routing_key"] == "crm"


def test_what_is_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(Malformed) as refused:
        opened(b"{" + b" " * MOST_BYTES, "celery")

    assert refused.value.reason == "too_large"


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed():
    raw = item(b"[[" + b"[]," * 500_000 + b"[]], {}, null]")

    with pytest.raises(Malformed) as refused:
        read(raw)

    assert refused.value.reason == "too_large"


def test_a_message_of_very_many_values_beside_its_body_is_refused_before_it_is_parsed(monkeypatch):
    raw = b'{"body": "", "x": [' + b"[]," * 500_000 + b"[]]}"
    monkeypatch.setattr("json.loads", lambda _: pytest.fail("it was parsed"))

    with pytest.raises(Malformed) as refused:
        opened(raw, "celery")

    assert refused.value.reason == "too_large"
    assert copy_of(raw) == f'"{len(raw)} bytes"'


def test_commas_and_brackets_in_a_text_are_no_values():
    text = 'a,"[{,' * 200_000

    _, _, kwargs = read(item([[], {"subject": "Teste", "text": text}, None]))

    assert kwargs["text"] == text


def test_a_text_without_an_end_is_refused_after_one_look_at_it():
    raw = item(b'"' + b'\\"' * 60_000)  # going through each rest of it takes half a minute
    started = time.process_time()

    with pytest.raises(Malformed) as refused:
        read(raw)

    assert refused.value.reason == "unreadable"
    assert time.process_time() - started < 2


def test_large_headers_are_refused():
    with pytest.raises(Malformed) as refused:
        opened(header(**{f"h{n}": "x" * 4000 for n in range(70)}), "celery")

    assert refused.value.reason == "too_large"


def test_a_bomb_is_refused_without_being_unpacked(monkeypatch):
    monkeypatch.setattr("bz2.decompress", lambda _: pytest.fail("it was unpacked"))

    with pytest.raises(Malformed) as refused:
        read(bomb(size=1000))

    assert refused.value.reason == "compressed"


def test_issues_name_fields_and_never_values():
    with pytest.raises(Malformed) as refused:
        read(header(timelimit="ana.teste@exemplo.com.br", id=["ana"]))

    assert {each.field for each in refused.value.issues} == {"headers.timelimit", "headers.id"}
    assert "ana" not in json.dumps([vars(each) for each in refused.value.issues])


@pytest.mark.parametrize(
    "kind",
    ["application/x-python-serialize", "application/x-yaml", "application/x-msgpack", "application/data", "text/plain"],
)
def test_statement_23_no_content_type_but_json_is_read_and_no_result_is_kept(kind):
    with pytest.raises(Malformed) as refused:
        read(item(b"\x80\x04N.", content_type=kind))

    assert refused.value.issues[0].field == "content-type"
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert isinstance(app.backend, DisabledBackend)
