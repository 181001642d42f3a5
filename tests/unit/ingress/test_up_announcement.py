"""What `entrega up` prints: three useful lines, never a password, and no test lead where the providers are real."""

import signal
from pathlib import Path

import pytest

from config.settings import ConfigurationError, load_settings
from ingress import up
from ingress.system import Plan, System
from ingress.up import announce
from sandbox.doors import SandboxError
from sandbox.standins import Addresses

PASSWORD = "s3gredo-inventado"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a system that looks started: `system(sandbox=True)`."""
    monkeypatch.chdir(tmp_path)

    def _system(**plan):
        settings = load_settings({"entrega_env": "sandbox", "entrega_data": Path(".entrega")})
        made = System(Plan(settings, **plan), lambda _: None)
        made.variables |= {
            "ENTREGA_HOST": "127.0.0.1",
            "ENTREGA_PORT": "8080",
            "DATABASE_URL": f"postgresql+psycopg://entrega:{PASSWORD}@127.0.0.1:5432/postgres",
            "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:6379/0",
        }
        if made.plan.sandbox:
            made.standins = Addresses("http://127.0.0.1:1", "http://127.0.0.1:2", 3, "http://127.0.0.1:4")
        return made

    return _system


def test_three_lines_say_where_it_is_and_where_key_and_logs_are(system, capsys):
    announce(system(), as_json=False)

    assert [line.strip() for line in capsys.readouterr().out.strip().splitlines()] == [
        "Entrega is up: http://127.0.0.1:8080",
        "admin key  .entrega/bootstrap.key",
        "logs       .entrega/logs",
    ]


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("sandbox", [False, True])
def test_no_password_is_printed_for_a_person(system, capsys, sandbox, verbose):
    announce(system(sandbox=sandbox, verbose=verbose), as_json=False)

    assert PASSWORD not in capsys.readouterr().out


@pytest.mark.parametrize(("sandbox", "suggested"), [(True, True), (False, False)])
def test_a_test_lead_is_suggested_for_stand_ins_alone(system, capsys, sandbox, suggested):
    announce(system(sandbox=sandbox, verbose=True), as_json=False)

    assert ("submit create_lead" in capsys.readouterr().out) is suggested


def test_more_is_said_when_it_is_asked_for(system, capsys):
    announce(system(sandbox=True, verbose=True), as_json=False)

    printed = capsys.readouterr().out
    assert "http://127.0.0.1:2" in printed
    assert ".entrega/running.json (with their passwords)" in printed


def test_stand_ins_are_refused_outside_the_sandbox_before_anything_is_made(tmp_path):
    settings = load_settings({"entrega_env": "sandbox", "entrega_data": tmp_path / "data"})
    staging = settings.model_copy(update={"entrega_env": "staging"})

    with pytest.raises(SandboxError, match="stand-ins are for the sandbox, and ENTREGA_ENV is staging"):
        System(Plan(staging, sandbox=True), lambda _: None).start()

    assert not (tmp_path / "data").exists()


def test_a_ledger_on_another_machine_is_refused_before_anything_is_made(tmp_path):
    settings = load_settings(
        {
            "entrega_env": "sandbox",
            "entrega_data": tmp_path / "data",
            "database_url": "postgresql://a:b@db.example.com/a",
        }
    )

    with pytest.raises(ConfigurationError, match="DATABASE_URL names another one"):
        System(Plan(settings, sandbox=True), lambda _: None).start()

    assert not (tmp_path / "data").exists()


def test_ctrl_c_is_answered_before_the_parts_are_stopped(monkeypatch, capsys):
    class Ready(System):
        def start(self):
            signal.raise_signal(signal.SIGINT)

        def stop(self):
            self.say("the parts are stopped")

    monkeypatch.setattr(up, "System", Ready)
    monkeypatch.setattr(up, "announce", lambda *_, **__: None)

    assert up.run(Plan(load_settings({})), as_json=False) == 0

    lines = [each for each in capsys.readouterr().out.splitlines() if each]
    assert lines[1:] == ["Stopping; calls under way have 10 s to end.", "the parts are stopped"]
