"""`entrega erase` as an operator meets it."""

import json

import pytest
from typer.testing import CliRunner

from ingress.cli import cli
from tests.integration.conftest import claim, lead, new


def run(*words, typed=None):
    return CliRunner().invoke(cli, ["erase", *words], input=typed)


@pytest.fixture
def delivery(voice, ledger):
    delivery = new(lead(1))
    ledger.open([delivery])
    return delivery.id


@pytest.mark.parametrize("typed", ["ANA.Teste1@exemplo.com.br\n", "+5511987654321, ana.teste1@exemplo.com.br"])
def test_addresses_come_from_standard_input(delivery, archive, typed):
    done = run("--yes", "--json", typed=typed)

    assert json.loads(done.stdout) == {"erased": 1, "canceled": 1, "dead": 0, "under_way": 0}
    assert archive.find(delivery).state == "canceled"


@pytest.mark.parametrize(
    ("words", "typed", "code"),
    [
        (("--yes",), "ana.teste1@exemplo.com.br\nsecret@@place\n", 4),
        (("--yes",), "\n", 2),
        ((), "ana.teste1@exemplo.com.br", 4),
        (("--json",), "ana.teste1@exemplo.com.br", 4),
        (("ana.teste1@exemplo.com.br",), "", 2),
    ],
    ids=["a wrong address", "no address", "nobody agreed", "nobody agreed, for machines", "on the command line"],
)
def test_in_doubt_nothing_is_erased_and_no_address_is_repeated(delivery, archive, words, typed, code):
    done = run(*words, typed=typed)

    assert done.exit_code == code
    assert "secret" not in done.output
    assert archive.find(delivery).recipient == "a***@exemplo.com.br"


def test_one_that_is_being_sent_asks_for_another_run(delivery, ledger):
    claim(ledger, delivery)

    done = run("--yes", typed="ana.teste1@exemplo.com.br")

    assert (done.exit_code, "erase again" in done.stdout) == (1, True)


def test_what_waited_for_an_erased_one_goes_on(voice, ledger):
    first, second = new(lead(1, order_key="conversa")), new(lead(2, order_key="conversa"))
    ledger.open([first, second])

    run("--yes", typed="ana.teste1@exemplo.com.br")

    assert [each.order.delivery_id for each in claim(ledger, second.id)] == [second.id]


ANA = "ana.teste1@exemplo.com.br"


def test_the_tombstones_of_an_erasure_erase_a_restored_ledger_again(delivery, ledger, sql):
    run("--yes", typed=ANA)
    stones = run("--tombstones").stdout
    sql("DELETE FROM erased")
    ledger.open([new(lead(1, key="of-the-backup"))])

    done = run("--replay", "--json", typed=stones)

    assert "ana" not in stones
    assert json.loads(done.stdout)["erased"] == 1


def test_a_suppressed_person_is_allowed_again(delivery, sql):
    run("--yes", "--suppress", typed=ANA)
    before = sql("SELECT suppressed FROM erased")

    done = run("--allow", "--json", typed=ANA)

    assert (before, json.loads(done.stdout), sql("SELECT suppressed FROM erased")) == (
        [(True,)],
        {"allowed": 1},
        [(False,)],
    )


@pytest.mark.parametrize(
    ("words", "typed"), [(("--replay",), "x"), (("--replay",), "{}"), (("--suppress", "--allow"), ANA)]
)
def test_what_makes_no_sense_erases_nothing(delivery, archive, words, typed):
    assert run("--yes", *words, typed=typed).exit_code in (2, 4)
    assert archive.find(delivery).state == "ready"
