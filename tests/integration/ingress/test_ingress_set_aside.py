"""`entrega set-aside`, and how doctor and metrics tell of events that could not be worked on."""

import json

import pytest
from typer.testing import CliRunner

from ingress.cli import cli
from ingress.doctor import examine
from ledger.setting_aside import SetAside
from tests.integration.ingress.conftest import make_app


@pytest.fixture
def kept(sql):
    sql(
        "INSERT INTO inbound_events (account, key, kind, tries, set_aside_at, fault)"
        " VALUES ('whatsapp:default', 'k', 'message', 3, now(), 'RuntimeError')"
    )


def run(*words):
    result = CliRunner().invoke(cli, ["set-aside", *words])
    return result.exit_code, result.stdout


def test_an_operator_sees_what_was_set_aside_and_why(voice, kept):
    code, shown = run("list")
    _, listed = run("list", "--json")

    assert code == 0
    assert all(word in shown for word in ("inbound", "whatsapp:default", "message", "RuntimeError"))
    assert [(each["account"], each["fault"]) for each in json.loads(listed)] == [("whatsapp:default", "RuntimeError")]


def test_an_operator_has_them_worked_on_again(voice, kept, database):
    assert json.loads(run("retry", "--reason", "an update", "--json")[1]) == {"retried": 1}
    assert SetAside(database).count() == 0
    assert run("list") == (0, "None.\n")


def test_doctor_and_metrics_tell_of_them(tmp_path, database, ledger, voice, kept, doors):
    app = make_app(tmp_path, database, ledger, voice)

    (found,) = [each for each in examine(app) if each.part == "events"]

    assert (found.well, "entrega set-aside list" in found.note) == (False, True)
    assert "entrega_events_set_aside 1.0" in doors().get("/metrics").text
