"""What the consumer does with a message that it refuses."""

from types import SimpleNamespace

import pytest
from kombu.message import Message

from worker import consumer
from worker.consumer import QuietConsumer


def refused_copy(monkeypatch, reason, body):
    refused = []
    monkeypatch.setattr(consumer, "refuse", refused.append)
    message = Message(
        body, content_type="application/json", content_encoding="utf-8", headers={"task": "create_lead"}, properties={}
    )
    monkeypatch.setattr(message, "reject_log_error", lambda *_: None)
    QuietConsumer._refuse(SimpleNamespace(connection_errors=()), reason, message)
    return refused[0].copy


def test_a_body_of_too_many_values_is_not_parsed_for_its_copy(monkeypatch):
    monkeypatch.setattr(Message, "decode", lambda _: pytest.fail("it was parsed"))

    assert '"body": "9 bytes"' in refused_copy(monkeypatch, "too_large", b"[[],[],1]")


def test_the_copy_of_another_message_shows_the_shape_of_its_body(monkeypatch):
    assert '"body": [[], {"email": "3 characters"}, null]' in refused_copy(
        monkeypatch, "malformed", b'[[], {"email": "ana"}, null]'
    )
