"""`entrega producers`, `approvals`, `pause --all`: against a real ledger; hints stand at their port."""

import json
from dataclasses import replace
from uuid import UUID

import pytest
from typer.testing import CliRunner

from delivery.errors import ProducerRefused
from delivery.producers import DEFAULT
from ingress.cli import cli
from ingress.doctor import _approvals
from ledger.producers import Producers
from tasks import app
from tests.integration.conftest import claim

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}


@pytest.fixture
def run(voice, monkeypatch):
    monkeypatch.delitem(app.__dict__, "policies", raising=False)
    yield lambda *words: CliRunner().invoke(cli, [*map(str, words)])
    app.__dict__.pop("policies", None)


@pytest.fixture
def ask(run):
    return lambda *words: json.loads(run(*words, "--json").stdout)


def test_a_policy_is_set_piece_by_piece_and_shown(ask, run):
    ask("producers", "set", "loja", "--per-minute", 60, "--allow", "@exemplo.com.br", "--allow", "+5511999990001")

    ask("producers", "set", "loja", "--per-day", 500, "--needs-approval", "--loop-most", 5)

    found = ask("producers", "show", "loja")
    assert found == {
        "name": "loja",
        "per_minute": 60,
        "per_day": 500,
        "new_recipients_per_day": None,
        "recipients_per_mail": None,
        "most_open": 200_000,
        "most_open_mb": 1_000,
        "used": {"minute": 0, "day": 0, "new_recipients": 0},
        "allowed": {"domains": ["@exemplo.com.br"], "others": 1},
        "senders": None,
        "needs_approval": True,
        "loop_guard": {"most": 5, "within_s": 3600.0},
        "frozen_at": None,
        "frozen_reason": None,
    }
    assert "0 of 60" in run("producers", "list").stdout


def test_what_was_set_is_taken_away_again(ask):
    ask("producers", "set", "loja", "--per-minute", 60, "--allow", "@exemplo.com.br", "--allow", "@outro.com.br")

    ask("producers", "set", "loja", "--per-minute", 0, "--disallow", "@outro.com.br", "--loop-most", 0)
    fewer = ask("producers", "show", "loja")
    everybody = ask("producers", "set", "loja", "--allow-everybody")

    assert (fewer["per_minute"], fewer["allowed"]["domains"], fewer["loop_guard"]) == (None, ["@exemplo.com.br"], None)
    assert everybody["allowed"] is None


def test_no_address_is_kept_in_clear(ask, sql):
    ask("producers", "set", "loja", "--allow", "ana.teste@exemplo.com.br")

    stored = sql("SELECT allowed FROM producers")[0][0]

    assert len(stored) == 1
    assert "ana" not in stored[0]
    app.intake.submit("create_lead", LEAD, producer="loja")
    with pytest.raises(ProducerRefused):
        app.intake.submit("create_lead", LEAD | {"email": "bia@exemplo.com.br"}, producer="loja")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("set", "loja", "--allow", "ana"), 2, "An entry is an e-mail address"),
        (("set", "a b"), 2, "A producer is a word"),
        (("set", "loja", "--allow", "@a.com.br", "--allow-everybody"), 2, "not both"),
        (("unfreeze", "loja"), 4, "loja is not frozen"),
    ],
)
def test_wrong_use_is_said_and_nothing_is_set(run, sql, words, code, said):
    result = run("producers", *words)

    assert (result.exit_code, said in result.stderr) == (code, True)
    assert sql("SELECT * FROM producers") == []


def test_a_frozen_producer_is_refused_until_it_is_unfrozen(run, ask):
    run("producers", "freeze", "loja", "--reason", "it sends nonsense")
    with pytest.raises(ProducerRefused, match="producer_frozen"):
        app.intake.submit("create_lead", LEAD, producer="loja")

    run("producers", "unfreeze", "loja")
    app.policies.forget()

    assert app.intake.submit("create_lead", LEAD, producer="loja").state == "ready"


@pytest.fixture
def held(run, database):
    Producers(database, actor="ana").set("loja", replace(DEFAULT, needs_approval=True), reason="test")
    return UUID(app.intake.submit("create_lead", LEAD, producer="loja").id)


def test_the_senders_of_a_producer_are_added_and_dropped(ask, run):
    ask("producers", "set", "loja", "--sender", "Vendas@exemplo.com.br", "--sender", "@loja.com.br")

    found = ask("producers", "set", "loja", "--drop-sender", "@loja.com.br")

    assert found["senders"] == ["vendas@exemplo.com.br"]
    assert ask("producers", "set", "loja", "--any-sender")["senders"] is None
    assert run("producers", "set", "loja", "--sender", "nobody").exit_code == 2


def test_what_waits_is_listed_and_approved_by_name(held, ask, voice, archive):
    listed = ask("approvals", "list", "--producer", "loja")

    done = ask("approvals", "approve", held, "--reason", "seen")

    assert [(each["id"], each["code"]) for each in listed] == [(str(held), "needs_approval")]
    assert done == {"approved": [str(held)], "left_alone": []}
    assert (voice.sent, archive.find(held).state) == ([held], "ready")


def test_an_approver_reads_the_text_with_a_reason_and_that_is_on_record(held, ask, run, letters):
    masked, clear = ask("approvals", "show", held), ask("approvals", "show", held, "--reason", "to approve it")
    printed = run("approvals", "show", held, "--reason", "to approve it").stdout

    assert (masked["payload"]["nome"], clear["payload"]["nome"]) == ("***", LEAD["nome"])
    assert LEAD["nome"] in printed
    assert masked["content_hash"] in printed
    assert [each.action for each in letters.history(held)] == ["accepted", "viewed", "revealed", "revealed"]


def test_only_what_was_seen_is_approved(held, ask, run):
    seen = ask("approvals", "show", held)["content_hash"]

    wrong = run("approvals", "approve", held, "--content-hash", "0" * 64, "--reason", "seen")
    right = run("approvals", "approve", held, "--content-hash", seen, "--reason", "seen")

    assert (wrong.exit_code, "another content" in wrong.stdout, right.exit_code) == (4, True, 0)


def test_hidden_characters_of_a_text_are_seen_by_its_approver(held, run, database):
    text = "Olá\u202e\u200b"
    held = app.intake.submit("create_lead", LEAD | {"observacoes": text, "nome": "Bia Teste"}, producer="loja").id

    printed = run("approvals", "show", held, "--reason", "to approve it").stdout

    assert "Olá\\u202e\\u200b" in printed


def test_the_doctor_says_how_many_wait_for_approval(held):
    (found,) = _approvals(app)

    assert (found.part, found.well, found.note.split(",")[0]) == ("approvals", True, "1 wait for approval")


def test_all_of_a_producer_are_rejected_at_once_and_twice_is_told(held, ask, run, archive):
    done = ask("approvals", "reject", "--producer", "loja", "--reason", "wrong price")

    again = run("approvals", "reject", held, "--reason", "wrong price")

    assert (done["rejected"], archive.find(held).state) == ([str(held)], "canceled")
    assert (again.exit_code, "does not wait for approval" in again.stdout) == (4, True)


@pytest.mark.parametrize(
    "words", [(), ("--code", "nonsense"), ("0193e0a0-0000-7000-8000-000000000000", "--producer", "x")]
)
def test_an_approval_of_nobody_knows_what_is_wrong_use(run, words):
    assert run("approvals", "approve", *words, "--reason", "seen").exit_code == 2


def test_everything_is_paused_and_resumed(run, ask, ledger):
    id_ = UUID(app.intake.submit("create_lead", LEAD, producer="loja").id)

    paused = ask("pause", "--all", "--reason", "nonsense")
    during = claim(ledger, id_)
    resumed = ask("resume", "--all")

    assert (paused, during, resumed["was_paused"]) == ({"account": None, "all": True, "held": True}, [], True)
    assert [each.order.delivery_id for each in claim(ledger, id_)] == [id_]
    assert run("resume", "--all").stdout.strip() == "Nothing was paused."


@pytest.mark.parametrize("words", [("pause",), ("pause", "crm:default", "--all"), ("pause", "crm:other")])
def test_a_pause_names_one_account_or_all(run, words):
    assert run(*words, "--reason", "x").exit_code == 2
