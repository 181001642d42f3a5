"""`entrega accounts` and `entrega limits` against a real ledger; Redis is away, hints stand at their port."""

import json

import pytest
from typer.testing import CliRunner

from config.spec_sections import Authentication
from delivery.outcomes import Rejected
from delivery.ports import Settlement
from ingress.accounts import typed_values
from ingress.cli import cli
from ledger.accounts import Accounts
from ledger.credentials import PostgresCredentials
from tasks import app
from tests.integration.conftest import claim, lead, letter, new

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
    assert found["whatsapp:default"] == {"name": "whatsapp:default", "added": False}
    assert "the token was refused" in " ".join(run("accounts", "list").stdout.split())


def test_limits_are_told_and_that_redis_is_away(run):
    told = run("limits", "whatsapp:default")
    (found,) = json.loads(run("limits", "whatsapp:default", "--json").stdout)

    assert (told.exit_code, found["account"], found["shared"]) == (0, "whatsapp:default", False)
    assert "Redis is away" in told.stdout


def test_limits_of_an_account_that_nobody_knows_are_refused(run):
    assert run("limits", "crm:nobody").exit_code == 2


def further(run, *lines, name="email:reserva", **more):
    return run("accounts", "add", name, input="\n".join(lines), **more)


def test_a_further_account_is_read_as_lines_and_listed(run, monkeypatch):
    monkeypatch.setattr("ledger.accounts.FRESH_S", 0)

    done = further(run, "# the spare relay", "SMTP_HOST=127.0.0.1", "FROM_EMAIL='reserva@exemplo.com.br'", "SMTP_USER=")

    assert "email:reserva is set up. See whether it answers" in " ".join(done.stdout.split())
    listed = {each["name"]: each["added"] for each in json.loads(run("accounts", "list", "--json").stdout)}
    assert listed == {"crm:default": False, "email:default": False, "whatsapp:default": False, "email:reserva": True}
    assert "an operator" in run("accounts", "list").stdout


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("email:reserva", ["SMTP_HOST=127.0.0.1"], "FROM_EMAIL: missing"),
        ("email:reserva", ["SMTP_HOST=127.0.0.1", "CRM_API_KEY=shh"], "CRM_API_KEY: not a variable"),
        ("email:default", [], "environment"),
        ("fax:reserva", [], "wanted service:name"),
    ],
)
def test_a_further_account_that_cannot_be_is_refused_without_showing_a_value(run, sql, name, lines, words):
    refused = further(run, *lines, name=name)

    assert (refused.exit_code, words in refused.stderr, "shh" in refused.output) == (4, True, False)
    assert sql("SELECT count(*) FROM accounts") == [(0,)]


def test_what_was_not_added_here_is_not_removed(run):
    refused = run("accounts", "remove", "crm:default")

    assert (refused.exit_code, "was not added here; added accounts: none" in refused.stderr) == (2, True)


def test_an_account_with_open_deliveries_stays(run, monkeypatch, ledger):
    monkeypatch.setattr("ledger.accounts.FRESH_S", 0)
    further(run, "SMTP_HOST=127.0.0.1", "FROM_EMAIL=reserva@exemplo.com.br")
    ledger.open([new(letter(), account="email:reserva")])

    refused = run("accounts", "remove", "email:reserva")

    assert (refused.exit_code, "still open" in refused.stderr) == (4, True)
    advice = run("accounts", "set", "email:reserva", input="word")
    assert (advice.exit_code, "change it with: entrega accounts add email:reserva" in advice.stderr) == (4, True)


def test_values_are_asked_for_one_by_one_and_secrets_without_an_echo(monkeypatch):
    asked = []

    def prompt(name, *, hide_input, **_):
        asked.append((name, hide_input))
        return {"SMTP_HOST": "127.0.0.1", "SMTP_PASSWORD": " invented "}.get(name, "")

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)

    assert typed_values(("SMTP_HOST", "SMTP_USER", "SMTP_PASSWORD", "OWN_TOKEN")) == {
        "SMTP_HOST": "127.0.0.1", "SMTP_PASSWORD": "invented",
    }  # fmt: skip
    assert asked == [("SMTP_HOST", False), ("SMTP_USER", False), ("SMTP_PASSWORD", True), ("OWN_TOKEN", True)]


def test_statement_49_no_door_and_no_repr_shows_a_credential(run, rotating, ledger, database):
    lines = "CRM_API_URL=https://crm.exemplo.com.br\nCRM_API_KEY=invented-api-key\n"
    put = run("accounts", "add", "crm:vendas", input=lines)
    given = run("accounts", "set", ACCOUNT, input="invented-refresh-token\n")
    ledger.open([new(lead())])

    told = [put, given, run("accounts", "list"), run("accounts", "list", "--json")]
    objects = [
        app.accounts.added(fresh=True),
        app.accounts.settings("crm:vendas"),
        PostgresCredentials(database, ledger.vault).find(ACCOUNT),
        ledger,
        ledger.vault.data_keys([b"x"]),
    ]

    shown = "".join([*(each.output for each in told), *map(repr, objects)])
    assert [each.exit_code for each in told] == [0] * 4
    assert "crm:vendas" in shown
    assert "invented" not in shown
    assert "b'" not in repr(objects[-1][b"x"])


def test_statement_49_an_added_account_is_rotated_without_a_restart(run, rotating, ledger):
    lines = "CRM_API_URL=https://crm.exemplo.com.br\nCRM_API_KEY=old\n"
    run("accounts", "add", "crm:vendas", input=lines)
    elsewhere = Accounts(ledger.engine, ledger.vault.masters, app.settings, {"crm": app.specs["crm"]})
    before = elsewhere.settings("crm:vendas").crm_api_key.get_secret_value()

    run("accounts", "add", "crm:vendas", input="CRM_API_KEY=new\n")
    elsewhere.added(fresh=True)

    assert (before, elsewhere.settings("crm:vendas").crm_api_key.get_secret_value()) == ("old", "new")
