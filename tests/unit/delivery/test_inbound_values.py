"""What comes from outside, made harmless and read without guessing."""

from datetime import UTC, datetime

import pytest

from delivery.commands import SendEmail, SendWhatsApp
from delivery.inbound import at_path, clean, instant_at, uuid_at, word_at

DEEP = {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a\x00\u202e": "b\x07"}, {"a": "b"}),
        ([1, 2.5, True, None, float("inf"), float("nan"), object()], [1, 2.5, True, None, None, None, None]),
        (list(range(200)), list(range(100))),
        (DEEP, {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": None}}}}}}}}),
    ],
)
def test_json_from_outside_is_capped_and_cleaned(value, kept):
    assert clean(value) == kept


@pytest.mark.parametrize(
    ("path", "found"),
    [("a.b", 1), ("a.c.0.d", 2), ("a.c.1", None), ("a.c.x", None), ("a.b.c", None), ("z", None)],
)
def test_a_path_leads_to_a_value_or_nowhere(path, found):
    assert at_path({"a": {"b": 1, "c": [{"d": 2}]}}, path) == found


@pytest.mark.parametrize(
    ("value", "word"), [("x", "x"), (7, "7"), (True, None), (1.5, None), ("", None), ("x" * 256, None), ({}, None)]
)
def test_a_word_is_a_short_text_or_a_number(value, word):
    assert word_at({"a": value}, "a") == word


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        ("1763812800", datetime(2025, 11, 22, 12, tzinfo=UTC)),
        (1763812800, datetime(2025, 11, 22, 12, tzinfo=UTC)),
        ("2025-11-22T12:00:00Z", datetime(2025, 11, 22, 12, tzinfo=UTC)),
        ("2025-11-22T12:00:00", datetime(2025, 11, 22, 12, tzinfo=UTC)),
        ("9" * 30, None),
        ("\u00b2", None),
        ("tomorrow", None),
        (None, None),
    ],
)
def test_an_instant_is_read_in_both_writings(value, instant):
    assert instant_at({"a": value}, "a") == instant


@pytest.mark.parametrize("value", ["order-1", 7, None, [], "0193e0a0-0000-7000-8000-00000000000"])
def test_a_reference_that_is_no_id_of_ours_is_none(value):
    assert uuid_at({"a": value}, "a") is None


@pytest.mark.parametrize(
    ("command", "is_marketing"),
    [
        (SendWhatsApp(to="+5511999990001", text="Oi"), False),
        (SendWhatsApp(to="+5511999990001", template={"name": "oferta"}), True),
        (SendWhatsApp(to="+5511999990001", template={"name": "codigo", "category": "authentication"}), False),
        (SendWhatsApp(to="+5511999990001", message={"type": "template", "template": {}}), True),
        (SendWhatsApp(to="+5511999990001", message={"type": "reaction", "reaction": {}}), False),
        (SendEmail(to="ana.teste@exemplo.com.br", subject="Oi", text="Oi"), False),
        (SendEmail(to="ana.teste@exemplo.com.br", subject="Oi", text="Oi", unsubscribe_url="https://x.com.br"), True),
    ],
)
def test_marketing_is_what_a_person_may_refuse(command, is_marketing):
    assert command.is_marketing is is_marketing
