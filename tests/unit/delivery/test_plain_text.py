"""No line that producers write ends early, hides a part, or gives orders to an operator's terminal."""

from datetime import UTC, datetime

import pytest

from delivery.commands import CreateLead, parse_command
from delivery.errors import InvalidCommand
from delivery.fields import STORED
from delivery.plain_text import is_line, shown

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
UNSAFE = ["\x00", "\t", "\n", "\r", "\x1b[2J", "\x7f", "\x80", "\x85", "\x9b2J", "\u2028", "\u2029"]
BIDI = [
    "\u061c",
    "\u200e",
    "\u200f",
    "\u202a",
    "\u202b",
    "\u202c",
    "\u202d",
    "\u202e",
    "\u2066",
    "\u2067",
    "\u2068",
    "\u2069",
]


@pytest.mark.parametrize("unsafe", [*UNSAFE, *BIDI])
@pytest.mark.parametrize("field", ["nome", "empresa", "tags"])
def test_a_line_with_an_unseen_character_is_refused_by_name(field, unsafe):
    text = f"Ana{unsafe}Teste"

    body = LEAD | {field: [text] if field == "tags" else text}
    with pytest.raises(InvalidCommand) as refused:
        parse_command("create_lead", body, choices={}, now=datetime(2026, 12, 1, tzinfo=UTC))

    assert [each.field.partition(".")[0] for each in refused.value.issues] == [field]


@pytest.mark.parametrize(
    "text",
    [
        "Ana",
        "Ação",
        "\u05d0\u05e0\u05d4",
        "\u0622\u0646\u0627",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "a\u00a0b",
    ],
)
def test_every_script_and_emoji_is_a_line(text):
    assert is_line(text)


def test_a_command_that_was_accepted_before_is_read_without_what_is_refused_now():
    stored = CreateLead.model_validate(LEAD | {"nome": "Ana\x9b\u202e Teste", "tags": ["\x9b"]}, context=STORED)

    assert (stored.nome, stored.tags) == ("Ana Teste", ["?"])


def test_a_text_is_shown_with_its_line_breaks_and_without_orders():
    assert shown("a\tb\nc\x1b[2J\x9b\u202e") == "a\tb\nc\ufffd[2J\ufffd\ufffd"
    assert shown("\x9b", escape="\\u{:04x}") == "\\u009b"
