"""A backup of a running system, restored into another folder."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

LEAD = ("nome=Ana Teste", "email=ana.teste@exemplo.com.br", "interesse=produto_a")
OTHER = ("nome=Bia Teste", "email=bia.teste@exemplo.com.br", "interesse=produto_a")
UP_READY = '"ingress"'


@pytest.fixture(scope="module")
def entrega():
    """Run one command on a data folder; return its exit code, and what it printed on either stream."""

    def _entrega(data, *arguments, **variables):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("entrega")), *map(str, arguments)],
            env={"PATH": "/usr/bin:/bin", "ENTREGA_DATA": str(data)} | variables,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    return _entrega


@pytest.fixture
def up(start):
    def _up(data):
        return start("entrega", "up", "--sandbox", "--json", ENTREGA_DATA=str(data), ENTREGA_PORT="0", CRM_TIMEOUT="2")

    return _up


def test_a_backup_of_a_running_system_is_restored_elsewhere_and_sends_nothing_again(up, entrega, folder, wait):
    first, second = folder / "first", folder / "second"
    file, without = folder / "ledger.backup", folder / "without-key.backup"

    def state(data, id_):
        return json.loads(entrega(data, "show", id_, "--json")[1])["state"]

    with up(first) as running:
        running.says(UP_READY)
        done = json.loads(entrega(first, "submit", "create_lead", *LEAD, "--json")[1])["id"]
        wait(lambda: state(first, done) == "succeeded", "the lead arrived")
        entrega(first, "pause", "email:default", "--reason", "so that one is open")
        held = ("to=ana.teste@exemplo.com.br", "subject=Teste", "text=Olá")
        open_ = json.loads(entrega(first, "submit", "send_email", *held, "--json")[1])["id"]
        later = "options=" + json.dumps({"send_at": (datetime.now(UTC) + timedelta(days=20)).isoformat()})
        scheduled = json.loads(entrega(first, "submit", "create_lead", *OTHER, later, "--json")[1])["id"]
        wait(lambda: state(first, open_) == "held", "the e-mail is held")
        saved, said = entrega(first, "backup", file, "--with-key")
        while_it_runs = entrega(first, "restore", file, "--replace")
    stopped = entrega(first, "backup", without, "--sandbox")

    assert saved == 0, said
    assert "holds the master keys too" in said
    assert file.stat().st_mode & 0o777 == 0o600
    assert while_it_runs[0] == 1
    assert "already runs" in while_it_runs[1]
    assert stopped[0] == 0, stopped[1]
    assert "Keep them apart" in stopped[1]

    keyless = entrega(second, "restore", without, "--sandbox")
    restored, told = entrega(second, "restore", file, "--sandbox")
    again = entrega(second, "restore", file, "--sandbox")
    assert keyless[0] == 2
    assert "there is no master key here" in keyless[1]
    assert restored == 0, told
    assert "1 that were open are held" in told
    assert again[0] == 4
    assert "not empty" in again[1]

    shutil.rmtree(first)
    with up(second) as running:
        running.says(UP_READY)
        assert [state(second, each) for each in (done, open_, scheduled)] == ["succeeded", "held", "waiting"]
        listed = json.loads(entrega(second, "dead-letters", "list", "--code", "restored", "--json")[1])
        assert [each["id"] for each in listed] == [open_]
        assert entrega(second, "verify")[0] == 0
        repeated = json.loads(entrega(second, "submit", "create_lead", *LEAD, "--json")[1])
        assert repeated["duplicate_of"] == done
