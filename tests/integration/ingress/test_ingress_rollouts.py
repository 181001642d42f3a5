"""`entrega rollout`, and what the doctor and a simulation say of one; a real ledger, no Redis."""

import json

import pytest
from typer.testing import CliRunner

from config.operator import operator_name
from ingress.cli import cli
from ingress.doctor import examine
from ledger.rollouts import Rollouts
from tasks import app

CRM = "crm:default"
LEAD = {"kind": "create_lead", "nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}


@pytest.fixture
def run(voice):
    return lambda *words: CliRunner().invoke(cli, [*map(str, words)])


@pytest.fixture
def ask(run):
    return lambda *words: json.loads(run(*words, "--json").stdout)


@pytest.fixture
def rollouts(database):
    return Rollouts(database, actor="ana")


def test_it_begins_is_listed_goes_back_and_ends(ask, sql):
    (begun,) = ask("rollout", "begin", CRM, "--reason", "version 2")
    listed = ask("rollout", "list")
    (back,) = ask("rollout", "back", CRM, "--reason", "tags are missing")
    finished = ask("rollout", "finish", CRM, "--reason", "mended")

    assert (begun["state"], begun["share"], begun["stage"], begun["stages"]) == ("under_way", 0.1, 1, 3)
    assert listed == [begun]
    assert (back["state"], back["share"], back["next_stage_at"]) == ("taken_back", 0.0, None)
    assert finished == {"account": CRM, "state": "over"}
    assert ask("rollout", "list") == []
    assert [tuple(row) for row in sql("SELECT actor, action, account, reason FROM audit ORDER BY id")] == [
        (operator_name(), "rollout_begun", CRM, "version 2"),
        (operator_name(), "rolled_back", CRM, "tags are missing"),
        (operator_name(), "rollout_finished", CRM, "mended"),
    ]


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (("begin", "fax:default"), 2, "There is no account 'fax:default'; there are: "),
        (("finish", CRM), 4, "There is no rollout of crm:default"),
        (("back", CRM), 4, "To stop the account: entrega pause crm:default"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(run, sql, words, code, advice):
    done = run("rollout", *words, "--reason", "test")

    assert (done.exit_code, advice in done.stderr) == (code, True)
    assert sql("SELECT * FROM audit") == []


def test_a_second_one_of_the_same_account_is_refused(run, ask):
    ask("rollout", "begin", CRM, "--reason", "version 2")

    done = run("rollout", "begin", CRM, "--reason", "version 3")

    assert (done.exit_code, done.stderr) == (
        4, "A rollout of crm:default is under way. See it with: entrega rollout list\n",
    )  # fmt: skip


def test_people_read_a_table(run, ask):
    empty = run("rollout", "list").stdout
    ask("rollout", "begin", CRM, "--reason", "version 2")

    table = run("rollout", "list").stdout

    assert empty == "No rollout is under way: everything goes.\n"
    assert all(word in table for word in ("crm:default", "under way", "10%", "1 of 3"))


def test_the_doctor_mentions_a_rollout_and_is_not_well_when_it_is_back(door, rollouts):
    def look():
        found = [each for each in examine(door.app) if each.part == "rollout crm:default"]
        return [(each.well, each.note) for each in found]

    before = look()
    rollouts.begin(CRM, reason="version 2")
    under_way = look()
    rollouts.back(CRM, reason="tags are missing")
    back = look()

    assert before == []
    assert [well for well, _ in under_way + back] == [True, False]
    assert under_way[0][1].startswith("10% of its deliveries go (stage 1 of 3); begun at 20")
    assert "tags are missing; its deliveries wait. mend it, then: entrega rollout begin crm:default" in back[0][1]


def test_a_simulation_tells_of_the_share_and_that_all_waits_when_it_is_back(door, rollouts):
    before = door.post("/v1/simulate", LEAD).json()
    rollouts.begin(CRM, reason="version 2")
    under_way = door.post("/v1/simulate", LEAD).json()
    rollouts.back(CRM, reason="tags are missing")
    back = door.post("/v1/simulate", LEAD).json()

    assert (before["rollout"], before["would"]) == (None, "send")
    assert (under_way["rollout"]["share"], under_way["would"]) == (0.1, "send")
    assert under_way["rollout"]["next_stage_at"] is not None
    assert (back["rollout"], back["would"], back["go_at"]) == ({"share": 0.0, "next_stage_at": None}, "wait", None)


def test_a_rollout_of_a_service_without_a_form_is_not_shown(voice, rollouts, ask):
    rollouts.begin("fax:default", reason="no such form")

    assert app.specs.get("fax") is None
    assert ask("rollout", "list") == []
