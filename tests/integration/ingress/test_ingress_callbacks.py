"""`entrega callbacks` against a real ledger; hints stand at their port and Redis is away."""

import json
import logging
import sys
import threading
from uuid import UUID, uuid4

import pytest
import structlog
from typer.testing import CliRunner

from config.settings import load_settings
from ingress.cli import cli
from tasks import app
from tests.integration.conftest import claim

URL = "https://loja.exemplo.com.br/caminho-secreto?token=inventado"


class Voice:
    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += [each.id for each in hints]
        return len(self.sent)


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    kept = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    yield
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = kept
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def voice(monkeypatch, ledger, archive, database):
    voice = Voice()
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    parts = {"settings": values, "ledger": ledger, "archive": archive, "database": database, "hints": voice}
    for name, part in parts.items():
        monkeypatch.setitem(app.__dict__, name, part)
    for name in ("callbacks", "intake"):
        monkeypatch.delitem(app.__dict__, name, raising=False)
    yield voice
    for name in ("callbacks", "intake"):
        app.__dict__.pop(name, None)


@pytest.fixture
def endpoint(ledger):
    return ledger.endpoints.register("loja", URL)


def run(*words, code=0):
    result = CliRunner().invoke(cli, ["callbacks", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_the_list_shows_hosts_and_breakers_and_no_path(endpoint):
    as_text, (as_json,) = run("list"), json.loads(run("list", "--json"))

    assert (as_json["id"], as_json["producer"], as_json["breaker"]) == (str(endpoint), "loja", "closed")
    assert as_json["account"] == "callback:loja.exemplo.com.br"
    assert "loja.exemplo.com.br" in as_text
    assert "secreto" not in as_text + json.dumps(as_json)


def test_a_secret_prints_once_and_then_says_how_to_make_a_new_one(endpoint, ledger):
    shown = json.loads(run("secret", "loja", "--json"))["secret"]

    assert shown.startswith("whsec_")
    assert "rotate loja" in run("secret", "loja", code=4)


def test_a_rotation_prints_the_new_secret(endpoint, ledger):
    shown = run("rotate", "loja", "--keep-hours", 1).splitlines()[0]

    assert len(ledger.endpoints.find(endpoint).secrets) == 2
    assert shown.startswith("whsec_")


def test_an_endpoint_is_disabled_and_enabled_with_a_reason(endpoint, ledger, sql):
    run("disable", endpoint, "--reason", "pediram")
    shut = ledger.endpoints.find(endpoint).disabled
    run("disable", endpoint, "--reason", "pediram", code=4)
    run("enable", endpoint)

    assert shut == "pediram"
    assert ledger.endpoints.find(endpoint).disabled is None
    assert [row.action for row in sql("SELECT action FROM audit ORDER BY id")] == [
        "endpoint_disabled", "endpoint_enabled",
    ]  # fmt: skip


def test_a_test_event_goes_the_way_of_every_callback(endpoint, ledger, voice):
    id_ = json.loads(run("test", endpoint, "--json"))["id"]

    (claimed,) = claim(ledger, *voice.sent)
    assert str(claimed.order.delivery_id) == id_
    assert claimed.order.command.type == "endpoint.test"
    data = claimed.order.command.data
    assert (UUID(data["id"]).version, data["state"], data["endpoint"]) == (7, "test", str(endpoint))


@pytest.mark.parametrize("words", [("test",), ("enable",), ("disable", "--reason", "x")])
def test_an_unknown_endpoint_is_refused(words):
    assert "There is no endpoint" in run(words[0], uuid4(), *words[1:], code=4)


def test_a_host_can_be_paused_as_any_account(endpoint, archive):
    result = CliRunner().invoke(cli, ["pause", "callback:loja.exemplo.com.br", "--reason", "mudança"])

    assert result.exit_code == 0, result.output
    assert [each.held_reason for each in archive.accounts()] == ["mudança"]
