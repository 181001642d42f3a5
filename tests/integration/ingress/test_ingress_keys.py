"""`entrega keys` against a real ledger."""

import json
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from config.api_key_text import is_whole_api_key
from config.settings import load_settings
from ingress.cli import cli
from ledger.api_keys import ApiKeys, api_key_hash
from tasks import app


@pytest.fixture
def run(monkeypatch, database):
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    monkeypatch.setitem(app.__dict__, "settings", values)
    monkeypatch.setitem(app.__dict__, "database", database)
    return lambda *words: CliRunner().invoke(cli, ["keys", *map(str, words)])


def test_a_key_is_shown_once_and_works(run, database):
    made = json.loads(run("create", "loja", "--scope", "read", "--expires-in", "90d", "--json").stdout)

    found = ApiKeys(database).find(api_key_hash(made["key"]))

    assert is_whole_api_key(made["key"])
    assert (found.producer, found.scopes) == ("loja", ("read",))
    assert made["key"] not in run("list").stdout + run("list", "--json").stdout


def test_a_revoked_key_opens_nothing(run, database):
    made = json.loads(run("create", "loja", "--json").stdout)

    assert run("revoke", made["id"], "--reason", "it leaked").exit_code == 0
    assert ApiKeys(database).find(api_key_hash(made["key"])) is None
    assert run("revoke", made["id"], "--reason", "again").exit_code == 4
    assert "revoked" in run("list").stdout


def test_an_expired_key_opens_nothing(run, database, sql):
    made = json.loads(run("create", "loja", "--expires-in", "1h", "--json").stdout)
    sql("UPDATE api_keys SET expires_at = now() - interval '1 second'")

    assert ApiKeys(database).find(api_key_hash(made["key"])) is None


@pytest.mark.parametrize("words", [("create", "a b"), ("create", "bootstrap"), ("create", "loja", "--scope", "tudo")])
def test_wrong_use_ends_with_exit_code_2(run, words):
    assert run(*words).exit_code == 2


def test_an_unknown_key_ends_with_exit_code_4(run):
    assert run("revoke", uuid4(), "--reason", "x").exit_code == 4
