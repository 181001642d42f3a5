"""Starting and stopping: `entrega up`, the programs by themselves, and the command line against a running system."""

import json
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from sandbox.doors import free_port
from sandbox.postgres import PostgresServer
from sandbox.standins import StandinControl, Standins, sandbox_environment
from sandbox.valkey import ValkeyServer

LEAD = ("nome=Ana Teste", "email=ana.teste@exemplo.com.br", "interesse=produto_a")
UP_READY = '"ingress"'  # the addresses, as JSON, are printed once everything is ready


@pytest.fixture(scope="module")
def up(start):
    """Start `entrega up --sandbox` on a data folder."""

    def _up(data, **variables):
        asked = {"ENTREGA_DATA": str(data), "ENTREGA_PORT": "0", "CRM_TIMEOUT": "2"} | variables
        return start("entrega", "up", "--sandbox", "--json", **asked)

    return _up


@pytest.fixture(scope="module")
def entrega(data_folder):
    """Run one command of the command line on a data folder; return its exit code, output and errors."""

    def _entrega(*arguments, data=data_folder, **variables):
        done = subprocess.run(
            [str(Path(sys.executable).with_name("entrega")), *arguments],
            env={"PATH": "/usr/bin:/bin", "ENTREGA_DATA": str(data)} | variables,
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return _entrega


@pytest.fixture(scope="module")
def system(up, data_folder):
    """A system that `entrega up` runs, for the command line."""
    with up(data_folder) as running:
        running.says(UP_READY)
        yield json.loads(running.text.splitlines()[-1])


@pytest.fixture
def servers(folder):
    """Postgres, Valkey and the stand-ins, and the variables that say where they are."""
    with Standins() as standins:
        postgres, valkey = PostgresServer(folder, durable=False), ValkeyServer(folder)
        variables = sandbox_environment(standins) | {
            "DATABASE_URL": postgres.start(), "REDIS_URL": valkey.start(), "ENTREGA_DATA": str(folder),
            "ENTREGA_MASTER_KEYS": b64encode(bytes(32)).decode(), "FLOWER_PORT": str(free_port()), "COLUMNS": "300",
        }  # fmt: skip
        yield postgres, variables, folder
        postgres.stop()
        valkey.stop()


@pytest.fixture
def ask(system, entrega):
    """Run a command with --json; return the exit code and what it printed."""

    def _ask(*arguments):
        code, out, err = entrega(*arguments, "--json")
        assert "Traceback" not in err
        return code, json.loads(out or err)

    return _ask


def answer(url, user=None):
    request = Request(url, headers={"Authorization": f"Basic {b64encode(user.encode()).decode()}"} if user else {})
    try:
        with urlopen(request, timeout=60) as found:
            return found.status, found.read().decode()
    except HTTPError as err:
        return err.code, ""
    except OSError:
        return 0, ""


def alive(processes):
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def sick_parts(ask):
    code, found = ask("doctor")
    return code, [each["part"] for each in found if not each["well"]]


def test_the_command_line_submits_shows_and_lists(ask, wait):
    code, receipt = ask("submit", "create_lead", *LEAD)

    assert (code, receipt["next_step"]) == (0, "wait")
    shown = wait(lambda: (found := ask("show", receipt["id"])[1])["state"] == "succeeded" and found, "succeeded")
    assert [each["http_status"] for each in shown["timeline"]] == [201]
    assert "ana.teste" not in json.dumps(shown)
    code, listed = ask("deliveries", "--state", "succeeded", "--kind", "create_lead")
    assert code == 0
    assert receipt["id"] in [each["id"] for each in listed]


def test_the_same_key_with_another_body_is_refused_and_with_the_same_body_is_the_same_delivery(ask, entrega):
    first = ask("submit", "create_lead", *LEAD, "--key", "k-1")[1]

    again = ask("submit", "create_lead", *LEAD, "--key", "k-1")[1]
    code, _, err = entrega("submit", "create_lead", *LEAD, "empresa=Outra Teste", "--key", "k-1", "--json")

    assert again["id"] == first["id"]
    assert code == 4
    assert "key" in err


def test_the_command_line_names_wrong_fields_with_exit_code_4(ask):
    code, refused = ask("submit", "create_lead", "nome=Ana Teste", "email=errado", "interesse=produto_z")

    assert code == 4
    assert {each["field"] for each in refused["error"]["details"]} == {"email", "interesse"}


def test_wrong_use_ends_with_exit_code_2(entrega, system):
    code, _, err = entrega("deliveries", "--state", "lost")

    assert code == 2
    assert "succeeded" in err


def test_a_delivery_that_is_not_there_ends_with_exit_code_4(entrega, system):
    code, _, err = entrega("show", "00000000-0000-7000-8000-000000000000", "--json")

    assert code == 4
    assert "There is no delivery" in err


def test_an_account_is_paused_and_resumed_and_its_leads_wait_meanwhile(ask, wait):
    assert ask("pause", "crm:default", "--reason", "test")[0] == 0
    lead = ask("submit", "create_lead", "nome=Bia Teste", "email=bia.teste@exemplo.com.br", "interesse=produto_a")[1]
    wait(lambda: ask("show", lead["id"])[1]["state"] == "held", "the lead is held")
    wait(lambda: sick_parts(ask) == (1, ["crm:default"]), "the doctor finds the paused account, and nothing else, ill")

    code, resumed = ask("resume", "crm:default", "--reason", "test over")

    assert (code, resumed["freed"]) == (0, 1)
    wait(lambda: ask("show", lead["id"])[1]["state"] == "succeeded", "the lead arrived")


def test_a_dead_letter_is_listed_and_replayed(ask, wait, system):
    StandinControl(system["sandbox_crm"]).plan({"status": 400, "match": "create_lead"})
    lead = ask("submit", "create_lead", "nome=Caio Teste", "email=caio.teste@exemplo.com.br", "interesse=produto_a")[1]
    wait(lambda: ask("show", lead["id"])[1]["state"] == "dead", "the lead is dead")

    listed = ask("dead-letters", "list")[1]
    code, replayed = ask("dead-letters", "replay", lead["id"], "--reason", "the CRM is mended")
    wait(lambda: ask("show", lead["id"])[1]["state"] == "succeeded", "the lead arrived")
    code_again, left = ask("dead-letters", "replay", lead["id"], "--reason", "once more")

    assert lead["id"] in [each["id"] for each in listed]
    assert (code, replayed["replayed"]) == (0, [lead["id"]])
    assert (code_again, left["not_replayed"]) == (4, [lead["id"]])


def test_doctor_verify_and_migrate_find_a_healthy_system_well(ask, wait):
    wait(lambda: ask("doctor")[0] == 0, "every part is well")
    code, verdict = ask("verify")

    assert (code, verdict["well"], verdict["faults"]) == (0, True, {})
    code, schema = ask("migrate")
    assert (code, schema["before"] == schema["after"]) == (0, True)


def test_up_survives_kill_9_of_its_parent_and_ends_cleanly_on_ctrl_c(up, entrega, folder, wait):
    with up(folder) as first:
        first.says(UP_READY)
        _, receipt, _ = entrega("submit", "create_lead", *LEAD, "--json", data=folder)
        before = first.family()
        first.process.send_signal(signal.SIGKILL)

        with up(folder) as second:
            second.says(UP_READY)
            orphans = alive(before)
            code, shown, _ = entrega("show", json.loads(receipt)["id"], "--json", data=folder)
            family = second.family()
            exit_code = second.interrupt()

    assert not orphans
    assert code == 0
    assert json.loads(shown)["state"] in {"ready", "attempting", "waiting", "succeeded"}
    assert exit_code == 0
    wait(lambda: not alive(family), f"no process is left of {family}")


def test_a_port_that_is_taken_is_said_and_ends_with_exit_code_1(up, folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with up(folder, ENTREGA_PORT=str(port)) as refused:
            code = refused.process.wait(240)

    assert code == 1
    assert f"127.0.0.1:{port} is taken" in refused.text
    assert "Traceback" not in refused.text


def test_worker_beat_and_flower_work_by_themselves_and_a_worker_waits_for_postgres(start, entrega, servers, wait):
    postgres, variables, data = servers
    postgres.stop()
    names = ("celery", "-A", "worker")

    with start(*names, "worker", "--loglevel=INFO", **variables, ENTREGA_REMOTE_CONTROL="true") as worker:
        worker.says("ledger_away")
        wait(lambda: worker.text.count("ledger_away") >= 2, "the worker tries again")
        postgres.start()
        assert entrega("migrate", data=data, **variables)[0] == 0
        worker.says("worker_ready")

        with start(*names, "beat", **variables) as beat, start(*names, "flower", **variables) as flower:
            page = f"http://127.0.0.1:{variables['FLOWER_PORT']}"
            wait(lambda: answer(f"{page}/api/tasks")[0], "Flower answers")
            login = f"operator:{(data / 'flower.password').read_text().strip()}"
            # It answers before it listens to the workers, and what it has not heard it never shows.
            wait(lambda: "worker" in answer(f"{page}/api/workers", login)[1], "Flower hears the worker")
            receipt = json.loads(entrega("submit", "create_lead", *LEAD, "--json", data=data, **variables)[1])
            show = ("show", receipt["id"], "--json")
            wait(lambda: json.loads(entrega(*show, data=data, **variables)[1])["state"] == "succeeded", "delivered")
            assert [answer(f"{page}{each}")[0] for each in ("/", "/api/tasks", "/api/workers")] == [401, 401, 401]
            wait(lambda: receipt["id"] in answer(f"{page}/api/tasks", login)[1], "Flower has seen the task")
            _, findings, _ = entrega("doctor", "--json", data=data, **variables)
            work = next(each for each in json.loads(findings) if each["part"] == "work")
            ends = [each.end() for each in (flower, beat, worker)]

    assert work["well"]
    assert ends == [0, 0, 0], [each.text[-500:] for each in (flower, beat, worker)]
