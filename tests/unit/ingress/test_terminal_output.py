"""What outsiders wrote gives no orders to an operator's terminal, and reasons are masked before they are kept."""

import json

import pytest
import typer
from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from ingress.printing import console, say, show_payload
from ingress.shapes import Reason
from ingress.shell import checked_reason, fail, print_json

ORDERS = "\x1b]0;x\x07\x9b2J\u202e\u2028"


def has_orders(text):
    return any(each in text for each in "\x1b\x07\x9b\u202e\u2028")


def test_a_payload_is_shown_without_orders(capsys):
    show_payload({"tags": f"vip{ORDERS}"}, None)

    out = capsys.readouterr().out
    assert "vip" in out
    assert not has_orders(out)


def test_statement_31_sentences_tables_and_failures_are_shown_without_orders(capsys):
    say(f"held: {ORDERS}")
    table = Table("name")
    table.add_row(Text(ORDERS))
    console().print(table)
    with pytest.raises(SystemExit):
        fail(f"no such account {ORDERS}", 2)

    shown = capsys.readouterr()
    assert not has_orders(shown.out + shown.err)


def test_json_for_a_terminal_escapes_orders_and_says_the_same(capsys):
    print_json({"reason": f"ação {ORDERS}"})

    out = capsys.readouterr().out
    assert not has_orders(out)
    assert "ação" in out
    assert json.loads(out) == {"reason": f"ação {ORDERS}"}


def test_a_reason_is_masked_at_the_rest_and_agent_doors_and_on_the_command_line():
    reason = "Zefirina, zefirina@exemplo.com.br, +5511987650042, desistiu"
    masked = "Zefirina, z***@exemplo.com.br, +55119876****, desistiu"

    assert (TypeAdapter(Reason).validate_python(reason), checked_reason(reason)) == (masked, masked)


@pytest.mark.parametrize("unsafe", ["\n", "\x9b", "\u2028", "\u202e"])
def test_a_reason_is_one_line(unsafe):
    with pytest.raises(ValidationError):
        TypeAdapter(Reason).validate_python(f"a{unsafe}b")
    with pytest.raises(typer.BadParameter):
        checked_reason(f"a{unsafe}b")
