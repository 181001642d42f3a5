"""A data folder and its one system: a second start, a copy, another machine, and what the sandbox left behind."""

import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from sandbox.postgres import PostgresServer
from sandbox.standins import Standins, sandbox_environment
from sandbox.valkey import ValkeyServer

LEAD = ("nome=Ana Teste", "email=ana.teste@exemplo.com.br", "interesse=produto_a")
UP_READY = '"ingress"'  # the addresses, as JSON, are printed once everything is ready
OTHER_KEY = b64encode(bytes(range(32))).decode()


@pytest.fixture(scope="module")
def up(start):
    """Start `entrega up` on a data folder."""

    def _up(data, *options, **variables):
        asked = {"ENTREGA_DATA": str(data), "ENTREGA_PORT": "0", "CRM_TIMEOUT": "2"} | variables
        return start("entrega", "up", "--json", *options, **asked)

    return _up


@pytest.fixture(scope="module")
def entrega():
    """Run one command on a data folder; return its exit code, and what it printed on either stream."""

    def _entrega(data, *arguments, **variables):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("entrega")), *arguments],
            env={"PATH": "/usr/bin:/bin", "ENTREGA_DATA": str(data)} | variables,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return _entrega


@pytest.fixture(scope="module")
def system(up, data_folder):
    """A system that runs in the module's folder."""
    with up(data_folder, "--sandbox") as running:
        running.says(UP_READY)
        yield json.loads(running.text.splitlines()[-1])


@pytest.fixture
def delivered(entrega, wait):
    """Submit a lead in a folder, and wait until it arrived."""

    def _delivered(data):
        id_ = json.loads(entrega(data, "submit", "create_lead", *LEAD, "--json", "--key", str(data))[1])["id"]
        wait(lambda: state_of(entrega, data, id_) == "succeeded", f"{id_} arrived")
        return id_

    return _delivered


def state_of(entrega, data, id_, **variables):
    return json.loads(entrega(data, "show", id_, "--json", **variables)[1])["state"]


def a_day_in_three_weeks():
    return (datetime.now(UTC) + timedelta(days=20)).isoformat()


def files_of(data):
    """Return what a starting system would write or delete; logs and metrics change by themselves."""
    names = ("running.json", "running.lock", "children.json", "standins.addresses.json", "master.key", "postgres.json")
    return {name: ((data / name).read_bytes(), (data / name).stat().st_ino) for name in names}


def test_a_second_up_is_refused_says_where_the_first_one_is_and_touches_nothing(up, data_folder, system, delivered):
    before, metrics = files_of(data_folder), set((data_folder / "metrics").iterdir())

    with up(data_folder, "--sandbox", ENTREGA_PORT="8099") as second:
        code = second.process.wait(240)

    assert code == 1
    assert f"already runs in {data_folder.resolve()}: {system['ingress']} (process " in second.text
    assert files_of(data_folder) == before
    assert metrics <= set((data_folder / "metrics").iterdir())
    delivered(data_folder)


def test_a_second_up_is_refused_too_where_the_servers_are_external(up, data_folder, system):
    servers = {"DATABASE_URL": system["database"], "REDIS_URL": system["redis"], "ENTREGA_MASTER_KEYS": OTHER_KEY}

    with up(data_folder, **servers) as second:
        code = second.process.wait(240)

    assert code == 1
    assert system["ingress"] in second.text


def test_commands_in_a_copy_of_a_running_folder_do_not_reach_the_original(entrega, data_folder, system, folder):
    copy = shutil.copytree(data_folder, folder / "copy", ignore=shutil.ignore_patterns("postgres", "*.sock"))

    code, said = entrega(copy, "deliveries")

    assert code == 2
    assert "nothing runs in this folder" in said


def test_a_system_starts_in_a_copy_beside_the_original(up, entrega, data_folder, system, folder, delivered):
    original = delivered(data_folder)
    shutil.copytree(data_folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("postgres", "*.sock"))

    with up(folder, "--sandbox") as copied:
        copied.says(UP_READY)
        addresses = json.loads(copied.text.splitlines()[-1])
        of_the_copy = json.loads(entrega(folder, "deliveries", "--json")[1])
        delivered(data_folder)

    assert of_the_copy == []  # its Postgres was left out of the copy, and it does not see the original's
    assert set(addresses.values()).isdisjoint(system.values())
    assert state_of(entrega, data_folder, original) == "succeeded"


def test_no_file_of_a_killed_system_blocks_a_start_in_a_full_copy(up, entrega, folder, delivered, wait):
    first, copy = folder / "first", folder / "copy"
    with up(first, "--sandbox") as killed:
        killed.says(UP_READY)
        id_ = delivered(first)
        family = killed.family()
        killed.process.kill()
        wait(lambda: not any(each.is_running() for each in family[1:]), "its children ended")
    subprocess.run(["/bin/cp", "-a", first, copy], check=True)
    (copy / "beat.pid").write_text(f"{os.getpid()}\n", encoding="utf-8")  # as an earlier version left it
    (copy / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{first}/postgres\n", encoding="utf-8")

    with up(copy, "--sandbox") as copied:
        copied.says(UP_READY)
        found = state_of(entrega, copy, id_)

    assert found == "succeeded"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "give every process the keys that this ledger was first used with"),
        ({"ENTREGA_MASTER_KEYS": OTHER_KEY}, "these keys do not open this ledger"),
    ],
    ids=["no keys", "other keys"],
)
@pytest.mark.parametrize("part", ["worker", "web", "up"])
def test_on_a_second_machine_without_the_keys_nothing_starts(start, system, folder, part, keys, words):
    servers = {"DATABASE_URL": system["database"], "REDIS_URL": system["redis"]}
    programs = {
        "worker": ("celery", "-A", "worker", "worker"),
        "web": ("python", "-m", "ingress.web"),
        "up": ("entrega", "up"),
    }

    with start(*programs[part], ENTREGA_DATA=str(folder), ENTREGA_PORT="0", **servers, **keys) as second:
        code = second.process.wait(240)

    assert code not in {0, None}
    assert words in second.text
    assert "Traceback" not in second.text
    assert "worker_ready" not in second.text
    assert not (folder / "master.key").exists()


@pytest.fixture(scope="module")
def newer_ledger(system):
    """A database that a newer version has migrated."""
    with psycopg.connect(system["database"], autocommit=True) as connection:
        connection.execute("CREATE DATABASE newer")
    newer = system["database"].rsplit("/", 1)[0] + "/newer"
    with psycopg.connect(newer) as connection:
        connection.execute("CREATE TABLE alembic_version AS SELECT '9999' AS version_num")
    return newer


@pytest.mark.parametrize(
    "command",
    [
        ("entrega", "up"),
        ("entrega", "migrate"),
        ("entrega", "deliveries"),
        ("celery", "-A", "worker", "worker"),
        ("python", "-m", "ingress.web"),
    ],
    ids=["up", "migrate", "deliveries", "worker", "web"],
)
def test_every_program_names_a_ledger_that_is_newer_than_itself(start, system, folder, newer_ledger, command):
    servers = {"DATABASE_URL": newer_ledger, "REDIS_URL": system["redis"], "ENTREGA_MASTER_KEYS": OTHER_KEY}

    with start(*command, ENTREGA_DATA=str(folder), ENTREGA_PORT="0", **servers) as program:
        code = program.process.wait(240)

    assert code not in {0, None}
    assert "this ledger is newer than this program" in program.text
    assert "Traceback" not in program.text


def test_what_the_sandbox_left_behind_never_reaches_a_real_provider(up, entrega, folder, wait):
    later = "options=" + json.dumps({"send_at": a_day_in_three_weeks()})
    with up(folder, "--sandbox") as sandbox:
        sandbox.says(UP_READY)
        left = json.loads(entrega(folder, "submit", "create_lead", *LEAD, later, "--json")[1])["id"]

    with Standins() as real:
        providers = sandbox_environment(real)
        del providers["ENTREGA_STANDINS"]
        with up(folder, **providers) as second:
            second.says(UP_READY)
            own = json.loads(entrega(folder, "submit", "create_lead", *LEAD, "--json")[1])["id"]
            wait(lambda: state_of(entrega, folder, own) == "succeeded", "the system's own lead arrived")
            listed = [each["id"] for each in json.loads(entrega(folder, "deliveries", "--json")[1])]
        effects = real.control("crm").effects_per_key()

    assert listed == [own]
    assert dict(effects) == {own: 1}
    with up(folder, "--sandbox") as sandbox:
        sandbox.says(UP_READY)
        assert state_of(entrega, folder, left) == "waiting"


@pytest.fixture
def own_servers(folder):
    """Servers of one's own, as a system on several machines has."""
    (folder / "servers").mkdir(mode=0o711)
    postgres, valkey = PostgresServer(folder / "servers", durable=False), ValkeyServer(folder / "servers")
    yield {"DATABASE_URL": postgres.start(), "REDIS_URL": valkey.start(), "ENTREGA_MASTER_KEYS": OTHER_KEY}
    postgres.stop()
    valkey.stop()


def test_on_a_shared_ledger_too_what_the_sandbox_left_is_held_named_and_never_sent(
    up, entrega, folder, own_servers, wait
):
    data, scheduled = folder / "data", "options=" + json.dumps({"send_at": a_day_in_three_weeks()})
    with up(data, "--sandbox", **own_servers) as sandbox:
        sandbox.says(UP_READY)
        left = json.loads(entrega(data, "submit", "create_lead", *LEAD, scheduled, "--json", **own_servers)[1])["id"]
    with psycopg.connect(own_servers["DATABASE_URL"]) as connection:
        connection.execute("UPDATE deliveries SET next_at = now()")

    with Standins() as real:
        providers = sandbox_environment(real)
        del providers["ENTREGA_STANDINS"]
        with up(data, **own_servers, **providers) as second:
            second.says(UP_READY)
            wait(lambda: state_of(entrega, data, left, **own_servers) == "held", "it is held")
            doctor, listed = (entrega(data, each, **own_servers)[1] for each in ("doctor", "deliveries"))
            verified, _ = entrega(data, "verify", **own_servers)
        effects = real.control("crm").effects_per_key()

    assert "deliveries of another environment (standins) that are open: 1." in " ".join(doctor.split())
    assert f"{left} was accepted in standins and is never sent from sandbox." in listed
    assert verified == 0
    assert dict(effects) == {}
