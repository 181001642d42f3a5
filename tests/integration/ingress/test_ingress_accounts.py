"""`entrega accounts` and `entrega limits` against a real ledger; Redis is away, hints stand at their port."""

import json

import pytest
from typer.testing import CliRunner

from config.spec_sections import Authentication
from delivery.outcomes import Rejected
from delivery.ports import Settlement
from ingress.cli import cli
from ledger.credentials import PostgresCredentials
from tasks import app
from tests.integration.conftest import claim, lead, new

ACCOUNT = "crm:default"


@pytest.fixture
def rotating(monkeypatch, voice):
    """A form whose refresh tokens live in the ledger."""
    crm = app.specs["crm"]
    values = crm.authentication.model_dump() | {"type": "oauth2_refresh_token", "alternatives": ()}
    changed = crm.model_copy(update={"authentication": Authentication.model_validate(values)})
    monkeypatch.setitem(app.__dict__, "specs", {**app.specs, "crm": changed})


@pytest.fixture
def run(voice):
    return lambda *words, **more: CliRunner().invoke(cli, [*map(str, words)], **more)


def held(ledger, code):
    (opened,) = ledger.open([new(lead())])
    (claimed,) = claim(ledger, opened.id)
    ledger.settle([Settlement(claimed, Rejected(code, "the token was refused", held=True))])
    return opened.id


def test_a_new_credential_is_read_from_standard_input_sealed_and_opens_the_account(
    run, voice, rotating, ledger, database, archive
):
    delivery = held(ledger, "unauthorized")

    result = run("accounts", "set", ACCOUNT, "--json", input="refresh-9\n")

    assert json.loads(result.stdout) == {"account": ACCOUNT, "stored": True, "freed": 1}
    assert PostgresCredentials(database, ledger.vault).find(ACCOUNT).secrets == {"refresh_token": "refresh-9"}
    assert (voice.sent, archive.find(delivery).state) == ([delivery], "ready")


def test_what_a_person_paused_stays_paused(run, rotating, desk, archive):
    desk.pause(ACCOUNT, reason="the CRM moves tonight")

    result = run("accounts", "set", ACCOUNT, input="refresh-9\n")

    assert "stays held; open it with: entrega resume crm:default" in " ".join(result.stdout.split())
    assert archive.accounts()[0].held_reason == "the CRM moves tonight"


@pytest.mark.parametrize("typed", ["", "two words\n", "líne\n"])
def test_what_cannot_be_a_token_is_not_stored(run, rotating, ledger, database, typed):
    result = run("accounts", "set", ACCOUNT, input=typed)

    assert result.exit_code == 4
    assert PostgresCredentials(database, ledger.vault).find(ACCOUNT) is None


@pytest.mark.parametrize(("account", "code"), [("crm:nobody", 2), ("whatsapp:default", 4)])
def test_only_an_account_that_keeps_its_credential_here_takes_one(run, rotating, account, code):
    assert run("accounts", "set", account, input="refresh-9\n").exit_code == code


def test_a_token_is_no_argument(run, rotating):
    assert run("accounts", "set", ACCOUNT, "refresh-9").exit_code == 2


def test_the_list_tells_why_an_account_is_held(run, ledger):
    held(ledger, "unauthorized")

    found = {each["name"]: each for each in json.loads(run("accounts", "list", "--json").stdout)}

    assert found[ACCOUNT]["held_code"] == "unauthorized"
    assert found["whatsapp:default"] == {"name": "whatsapp:default"}
    assert "the token was refused" in " ".join(run("accounts", "list").stdout.split())


def test_limits_are_told_and_that_redis_is_away(run):
    told = run("limits", "whatsapp:default")
    (found,) = json.loads(run("limits", "whatsapp:default", "--json").stdout)

    assert (told.exit_code, found["account"], found["shared"]) == (0, "whatsapp:default", False)
    assert "Redis is away" in told.stdout


def test_limits_of_an_account_that_nobody_knows_are_refused(run):
    assert run("limits", "crm:nobody").exit_code == 2
