"""The stand-ins' own rules: which lead and which message they refuse, and the private files of the data folder."""

import stat
from pathlib import Path

import pytest

from sandbox.crm import issues
from sandbox.doors import log_tail, write_private
from sandbox.graph import wrong_message

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a", "origem": "agente_ia"}
TEXT = {"messaging_product": "whatsapp", "to": "+5511999990001", "type": "text", "text": {"body": "Olá"}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nome": ""}, "nome"),
        ({"nome": "a" * 101}, "nome"),
        ({"email": None}, "email"),
        ({"email": "ana.teste"}, "email"),
        ({"telefone": "11 99999-0001"}, "telefone"),
        ({"empresa": "a" * 201}, "empresa"),
        ({"interesse": "produto_z"}, "interesse"),
        ({"observacoes": "a" * 1001}, "observacoes"),
        ({"tags": ["t"] * 11}, "tags"),
        ({"tags": [1]}, "tags"),
    ],
)
def test_a_lead_with_one_wrong_field_is_refused_for_that_field(change: dict[str, object], field: str) -> None:
    found = issues({**LEAD, **change})

    assert [issue["field"] for issue in found] == [field]


def test_a_right_lead_is_not_refused() -> None:
    assert issues({**LEAD, "telefone": "+5511999990001", "tags": ["t"] * 10}) == []


def test_a_lead_that_is_not_an_object_is_refused() -> None:
    assert issues([LEAD]) != []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"messaging_product": None}, 100),
        ({"to": None}, 131008),
        ({"to": "not a phone"}, 131009),
        ({"to": None, "recipient": "br 1"}, 131009),
        ({"type": "pigeon"}, 131009),
        ({"text": None}, 131008),
        ({"text": "Olá"}, 131009),
        ({"text": {"body": ""}}, 131008),
        ({"text": {"body": "a" * 4097}}, 100),
        ({"biz_opaque_callback_data": "a" * 513}, 100),
        ({"type": "template", "template": {"name": "aviso"}}, 131008),
        ({"status": "read"}, 131008),
    ],
)
def test_a_message_of_the_wrong_shape_gets_the_code_of_the_graph_api(change: dict[str, object], code: int) -> None:
    refusal = wrong_message({**TEXT, **change})

    assert refusal is not None
    assert refusal.status == 400
    assert isinstance(refusal.body, dict)
    assert refusal.body["error"]["code"] == code


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"text": {"body": "a" * 4096}},
        {"to": None, "recipient": "BR.1502576394655843"},
        {"type": "template", "template": {"name": "aviso", "language": {"code": "pt_BR"}}},
        {"status": "read", "message_id": "wamid.1"},
    ],
)
def test_a_message_of_the_right_shape_passes(change: dict[str, object]) -> None:
    assert wrong_message({**TEXT, **change}) is None


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("one\ntwo\nthree\n")

    assert log_tail(log, lines=2) == "two\nthree"
    assert log_tail(tmp_path / "none.log") == "(no log was written)"


def test_the_file_with_a_password_is_private(tmp_path: Path) -> None:
    write_private(tmp_path / "door.json", "{}")

    assert stat.S_IMODE((tmp_path / "door.json").stat().st_mode) == 0o600
