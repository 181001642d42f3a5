"""The command server: a served command does what the same command does without it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ingress.entry import SOCKET

COMMANDS = True
_ENTREGA = str(Path(sys.executable).with_name("entrega"))
_LEAD = '{"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}'


@pytest.fixture(scope="module")
def served(module_system):
    """The system once its command server takes commands."""
    socket = module_system.system.data / SOCKET
    module_system.wait(socket.exists, "the command server listens")
    return module_system


def _run(served, *words, typed=None, cold=False):
    command = [sys.executable, "-c", "from ingress.cli import main; main()"] if cold else [_ENTREGA]
    environment = os.environ | {"ENTREGA_DATA": str(served.system.data), "COLUMNS": "100"}
    return subprocess.run([*command, *words], env=environment, input=typed, capture_output=True, text=True, check=False)


def _children(served):
    children = psutil.Process(served.system.parts["commands"].pid).children()
    return [each for each in children if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    "words",
    [
        ("deliveries",),
        ("deliveries", "--json"),
        ("deliveries", "--state", "nonsense"),
        ("show", "no-id"),
        ("show", "0193e0a0-0000-7000-8000-000000000000"),
        ("submit", "create_lead", "nome=x"),
        ("submit", "create_lead", "@missing.json"),
        ("limits", "--json"),
        ("verify",),
        ("dead-letters", "list"),
    ],
    ids=" ".join,
)
def test_a_served_command_prints_and_returns_what_it_does_by_itself(served, words):
    found, wanted = _run(served, *words), _run(served, *words, cold=True)

    assert (found.returncode, found.stdout, found.stderr) == (wanted.returncode, wanted.stdout, wanted.stderr)


def test_a_served_command_runs_in_the_server(served):
    before = psutil.Process(served.system.parts["commands"].pid).cpu_times()

    _run(served, "deliveries")

    served.wait(
        lambda: psutil.Process(served.system.parts["commands"].pid).cpu_times().children_user > before.children_user,
        "a child of the command server worked",
    )


def test_a_served_command_reads_standard_input_and_its_wake_up_leaves(served):
    found = _run(served, "submit", "create_lead", "-", typed=_LEAD)

    assert found.returncode == 0
    assert served.sql("SELECT count(*) FROM audit WHERE action = 'accepted'")[0][0] == 1
    served.wait(lambda: served.sql("SELECT count(*) FROM deliveries WHERE state = 'succeeded'")[0][0], "it arrived")


def test_ctrl_c_ends_a_served_command(served):
    environment = os.environ | {"ENTREGA_DATA": str(served.system.data)}
    waiting = subprocess.Popen(
        [_ENTREGA, "submit", "create_lead", "-"], env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    served.wait(lambda: _children(served), "the command waits for its input")

    waiting.send_signal(signal.SIGINT)

    assert waiting.wait(60) == 130
    assert waiting.stderr.read() == b""
    served.wait(lambda: not _children(served), "the command has ended")
    waiting.stdin.close()
    waiting.stderr.close()


def test_the_socket_belongs_to_the_account_that_runs_the_system(served):
    socket = served.system.data / SOCKET

    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


def test_a_command_runs_by_itself_while_the_server_is_away(served):
    served.kill("commands")

    found = _run(served, "deliveries", "--json")

    assert found.returncode == 0
