"""Templates are named and filled, never written; what fills them is data to everything that carries it."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from delivery.commands import SendWhatsApp, parse_command
from delivery.errors import InvalidCommand, Permanent
from delivery.ids import new_id
from providers.whatsapp_cloud.envelope import message_body

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOME = Path(__file__).parents[2]
CHAT = {"to": "+5511999990001"}
NAMED = {"name": "boas_vindas", "language": "pt_BR"}


def issue(kind, body):
    try:
        parse_command(kind, body, choices={}, now=NOON)
    except InvalidCommand as err:
        return [each.field for each in err.issues]
    return []


@pytest.mark.parametrize("field", ["components", "body", "text", "header", "buttons"])
def test_statement_21_a_producer_names_and_fills_a_template_and_writes_none(field):
    assert issue("send_whatsapp", CHAT | {"template": NAMED | {field: "{{1}}"}}) == [f"template.{field}"]


@pytest.mark.parametrize("name", ["../segredo", "boas vindas", "{{7*7}}", "a" * 513, ""])
def test_statement_21_the_name_of_a_template_is_a_plain_word(name):
    assert issue("send_whatsapp", CHAT | {"template": NAMED | {"name": name}}) == ["template.name"]


def test_statement_21_an_e_mail_takes_no_template():
    assert issue("send_email", {"to": "ana@exemplo.com.br", "subject": "a", "template": "x"})[0] == "template"


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a     b", "a\u2028b"])
def test_statement_22_what_breaks_out_of_a_variable_is_refused(text):
    body = CHAT | {"template": NAMED | {"variables": [text]}}

    if not issue("send_whatsapp", body):
        with pytest.raises(Permanent):
            message_body(SendWhatsApp.model_validate(body), new_id())


@pytest.mark.parametrize("text", ["{{2}}", "*negrito* _a_", '"}]}', "=1+1", "<b>a</b>", "%s {0} ${x}"])
def test_statement_22_a_variable_arrives_as_it_was_written_and_nothing_reads_it(text):
    command = SendWhatsApp.model_validate(CHAT | {"template": NAMED | {"variables": [text, "b"]}})

    (component,) = message_body(command, new_id())["template"]["components"]

    assert component["parameters"] == [{"type": "text", "text": text}, {"type": "text", "text": "b"}]


def test_statement_22_nothing_writes_tables_that_a_spreadsheet_would_compute():
    ours = [each for name in ("ingress", "ledger", "worker", "tasks") for each in (HOME / name).rglob("*.py")]

    assert len(ours) > 50
    assert [
        each.name for each in ours if re.search(r"^\s*(import csv|from csv)", each.read_text("utf-8"), re.MULTILINE)
    ] == []
