"""`entrega dead-letters` against a real ledger; hints stand at their port."""

import getpass
import json
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from delivery.errors import InvalidCommand
from delivery.outcomes import Rejected
from delivery.ports import Settlement
from ingress.cli import cli
from tests.integration.conftest import claim, lead, letter, new

WHY = ("--reason", "mended")


@pytest.fixture
def run(voice):
    return lambda *words, **more: CliRunner().invoke(cli, ["dead-letters", *map(str, words)], **more)


@pytest.fixture
def ask(run):
    def ask(*words):
        result = run(*words, "--json")
        return result.exit_code, json.loads(result.stdout)

    return ask


def dead(ledger, *commands, code="invalid"):
    ids = sorted(each.id for each in ledger.open([new(command) for command in commands]))
    ledger.settle([Settlement(each, Rejected(code, "the CRM said no")) for each in claim(ledger, *ids)])
    return ids


def test_the_list_narrows_by_code_and_age(ledger, ask):
    (id_,) = dead(ledger, lead(1))
    dead(ledger, lead(2), code="forbidden")

    code, found = ask("list", "--code", "invalid", "--newer-than", "10m", "--producer", "tests")

    assert (code, [each["id"] for each in found]) == (0, [str(id_)])
    assert ask("list", "--older-than", "10m") == (0, [])


def test_the_summary_counts_for_each_account_and_code(ledger, ask, run):
    dead(ledger, lead(1), lead(2))

    code, piles = ask("list", "--summary")

    assert (code, [(each["account"], each["code"], each["count"]) for each in piles]) == (
        0,
        [("crm:default", "invalid", 2)],
    )
    assert "crm:default" in run("list", "--summary").stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ("list", "--older-than", "soon"),
        ("replay", *WHY),
        ("replay", uuid4(), "--code", "invalid", *WHY),
        ("replay", "--code", "invalid", "--pace", "fast", *WHY),
        ("replay", "--code", "invalid", "--pace", "0/s", *WHY),
        ("replay", "--code", "invalid", "--stop-after", "120%", *WHY),
        ("edit", uuid4(), *WHY),
        ("discard", uuid4()),
    ],
)
def test_wrong_use_ends_with_exit_code_2(run, wrong):
    assert run(*wrong).exit_code == 2


def test_a_shown_payload_is_masked_and_the_look_is_on_record(ledger, ask, run):
    (id_,) = dead(ledger, lead())

    code, shown = ask("show", id_, "--reason", "the customer called")

    assert code == 0
    assert shown["payload"]["email"] == "a***@exemplo.com.br"
    assert shown["payload"]["interesse"] == "produto_a"
    assert (shown["payload_note"], shown["may_exist"], len(shown["timeline"])) == (None, False, 1)
    looked = shown["history"][-1]
    assert (looked["actor"], looked["action"], looked["reason"]) == (
        getpass.getuser(),
        "viewed",
        "the customer called",
    )
    for_a_person = run("show", id_).stdout
    assert "ana.teste1" not in for_a_person + json.dumps(shown)
    assert "Ana Teste" not in for_a_person + json.dumps(shown)


def test_what_an_erased_person_wrote_is_said_to_be_gone(ledger, ask, run, sql):
    (id_,) = dead(ledger, lead())
    sql("DELETE FROM people")

    code, shown = ask("show", id_)

    assert (code, shown["payload"]) == (0, None)
    assert "erased" in shown["payload_note"]
    assert "erased" in run("show", id_).stdout
    assert run("edit", id_, "nome=Bia Teste", *WHY).exit_code == 4


@pytest.mark.parametrize("words", [("show",), ("edit", "nome=Bia Teste", *WHY)])
def test_a_delivery_that_is_not_there_ends_with_exit_code_4(run, words):
    assert run(words[0], uuid4(), *words[1:]).exit_code == 4


def test_named_letters_are_replayed_and_the_rest_is_told(ledger, ask, voice):
    (id_,) = dead(ledger, lead())
    ask("replay", id_, *WHY)

    code, again = ask("replay", id_, *WHY)

    assert voice.sent == [id_]
    assert (code, again) == (4, {"replayed": [], "not_replayed": [str(id_)]})


def test_a_replay_by_filter_only_counts_for_machines_that_did_not_say_yes(ledger, ask, voice):
    dead(ledger, lead(1), lead(2))

    code, preview = ask("replay", "--code", "invalid", *WHY)

    assert (code, preview) == (0, {"matching": 2, "replayed": 0, "replay": None})
    assert voice.sent == []


@pytest.mark.parametrize(("answer", "replayed"), [("y\n", 2), ("n\n", 0)])
def test_a_person_is_shown_the_count_and_asked(ledger, run, voice, answer, replayed):
    dead(ledger, lead(1), lead(2))

    result = run("replay", "--code", "invalid", *WHY, input=answer)

    assert result.exit_code == 0
    assert "2 match" in result.stdout
    assert len(voice.sent) == replayed


def test_a_replay_by_filter_has_a_pace_and_is_listed(ledger, ask, run, voice):
    ids = dead(ledger, lead(1), lead(2), lead(3), letter())

    code, done = ask("replay", "--kind", "create_lead", "--pace", "30/m", "--stop-after", "5", "--yes", *WHY)

    assert (code, done["replayed"]) == (0, 3)
    assert len(voice.sent) == 1
    (listed,) = ask("replays")[1]
    assert (listed["id"], listed["pace"], listed["threshold"], listed["threshold_unit"]) == (
        done["replay"],
        0.5,
        5,
        "errors",
    )
    assert (listed["total"], listed["open"], listed["filter"]) == (3, 3, {"kind": "create_lead"})
    assert (listed["actor"], listed["reason"], listed["stop_reason"]) == (getpass.getuser(), "mended", None)
    assert done["replay"] in run("replays").stdout
    assert len(ids) == 4


def test_an_edit_makes_a_new_delivery_and_shows_both_payloads_masked(ledger, ask, archive, voice):
    (id_,) = dead(ledger, lead(account="default", send_at="2026-01-01T00:00:00Z", metadata={"campanha": "x1"}))

    code, edited = ask("edit", id_, "nome=Bia Teste", "interesse=produto_b", 'tags=["vip"]', *WHY)

    assert code == 0
    assert (edited["before"]["interesse"], edited["after"]["interesse"]) == ("produto_a", "produto_b")
    assert (edited["after"]["nome"], edited["after"]["tags"]) == ("***", ["vip"])
    assert [str(each) for each in voice.sent] == [edited["receipt"]["id"]]
    fresh, old = archive.search()
    assert (old.state, fresh.replay_of) == ("canceled", id_)
    command = claim(ledger, fresh.id)[0].order.command
    assert (command.nome, command.tags, command.options.metadata) == ("Bia Teste", ["vip"], {"campanha": "x1"})


def test_a_field_is_taken_out_by_null(ledger, run, archive):
    (id_,) = dead(ledger, lead().model_copy(update={"empresa": "Teste Ltda"}))

    assert run("edit", id_, "empresa=null", *WHY).exit_code == 0

    assert claim(ledger, archive.search()[0].id)[0].order.command.empresa is None


def test_the_whole_body_may_come_from_a_file(ledger, run, archive, tmp_path):
    (id_,) = dead(ledger, lead())
    body = tmp_path / "body.json"
    body.write_text('{"nome": "Caio Teste", "email": "caio.teste@exemplo.com.br", "interesse": "produto_b"}')

    result = run("edit", id_, "--body", f"@{body}", *WHY)

    assert result.exit_code == 0
    assert "takes the place of" in result.stdout
    assert claim(ledger, archive.search()[0].id)[0].order.command.nome == "Caio Teste"


def test_an_edit_is_checked_like_any_command(ledger, run, archive):
    (id_,) = dead(ledger, lead())

    result = run("edit", id_, "email=errado", *WHY)

    assert isinstance(result.exception, InvalidCommand)
    assert archive.find(id_).state == "dead"


def test_a_second_edit_is_refused(ledger, run, archive):
    (id_,) = dead(ledger, lead())
    run("edit", id_, "nome=Bia Teste", *WHY)

    assert run("edit", id_, "nome=Bia Teste", *WHY).exit_code == 4
    assert len(archive.search()) == 2


def test_what_may_have_arrived_is_edited_only_with_anyway(ledger, run):
    (id_,) = dead(ledger, letter(), code="unconfirmed")

    assert run("edit", id_, "subject=Outro teste", *WHY).exit_code == 4
    assert run("edit", id_, "subject=Outro teste", "--anyway", *WHY).exit_code == 0


def test_a_discarded_letter_cannot_be_replayed(ledger, ask):
    (id_,) = dead(ledger, lead())

    assert ask("discard", id_, *WHY) == (0, {"discarded": [str(id_)], "not_discarded": []})
    assert ask("discard", id_, *WHY)[0] == 4
    assert ask("replay", id_, *WHY)[0] == 4
