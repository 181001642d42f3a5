"""Child processes: none survives its parent, none is mistaken for another."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import pytest

from sandbox.children import Child, Command, end_leftovers
from sandbox.doors import SandboxError
from sandbox.logs import rotate_logs
from sandbox.postgres import PostgresServer

ROOT = Path(__file__).parents[3]
SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)
# Starts a process in a group of its own: only a look at the family finds it.
WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
PARENT = """
import sys, threading, time
from pathlib import Path
from sandbox.children import Child, Command
data = Path(sys.argv[1])
child = Child(data, Command("sleeper", (sys.executable, "-c", "import time; time.sleep(600)"), log=data / "log"))
if sys.argv[2] == "side-thread":
    thread = threading.Thread(target=child.start); thread.start(); thread.join()
else:
    child.start()
print(child.pid, flush=True)
time.sleep(600)
"""
POSTGRES_PARENT = """
import sys, time
from pathlib import Path
from sandbox.postgres import PostgresServer
print(PostgresServer(Path(sys.argv[1]), durable=False).start(), flush=True)
time.sleep(600)
"""
StartParent = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(tmp_path, Command("sleeper", SLEEPER, log=tmp_path / "log"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def start_parent() -> Iterator[StartParent]:
    """Start a program of this file that has children, and return it with the line it printed."""
    parents: list[subprocess.Popen[str]] = []

    def _start(program: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,  # `-c` looks for our packages in the working folder
        )
        parents.append(parent)
        assert parent.stdout is not None
        return parent, parent.stdout.readline().strip()

    yield _start
    for parent in parents:
        _kill_nine(parent)


def _kill_nine(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()


def _is_gone(pid: int, within_s: float = 60.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def _first_line(log: Path) -> str:
    deadline = time.monotonic() + 60
    while not log.read_text().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.02)
    return log.read_text().strip()


def test_a_stopped_child_is_gone_and_forgotten(child: Child, tmp_path: Path) -> None:
    pid = child.pid

    child.stop()

    assert _is_gone(pid)
    assert json.loads((tmp_path / "children.json").read_text()) == []


def test_a_child_that_ignores_the_stop_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    stubborn = Child(tmp_path, Command("stubborn", STUBBORN, log=tmp_path / "log"))
    stubborn.start()
    _first_line(tmp_path / "log")

    stubborn.stop(timedelta(milliseconds=100))

    assert stubborn.exit_code == -signal.SIGKILL


def test_the_family_of_a_child_goes_with_it(tmp_path: Path) -> None:
    with_child = Child(tmp_path, Command("family", (sys.executable, "-c", WITH_CHILD), log=tmp_path / "log"))
    with_child.start()
    grandchild = int(_first_line(tmp_path / "log"))

    with_child.stop()

    assert _is_gone(grandchild)


def test_a_second_child_of_the_same_name_is_refused_while_the_first_runs(child: Child, tmp_path: Path) -> None:
    second = Child(tmp_path, child.command)

    with pytest.raises(SandboxError, match=f"process {child.pid}"):
        second.start()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot start nothing from /nowhere/program"):
        Child(tmp_path, Command("nothing", ("/nowhere/program",), log=tmp_path / "log")).start()


def test_the_children_of_a_living_parent_are_not_leftovers(child: Child, tmp_path: Path) -> None:
    ended = end_leftovers(tmp_path)

    assert ended == ()
    assert child.running


def test_a_stranger_with_a_recorded_pid_is_left_alone(child: Child, tmp_path: Path) -> None:
    file = tmp_path / "children.json"
    record = json.loads(file.read_text())[0]
    stranger = {**record, "created": record["created"] - 3600, "parent_created": record["parent_created"] - 3600}
    file.write_text(json.dumps([stranger]))

    ended = end_leftovers(tmp_path)

    assert ended == ()
    assert child.running
    assert json.loads(file.read_text()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_on_linux_no_child_survives_kill_nine_of_its_parent(start_parent: StartParent, tmp_path: Path) -> None:
    parent, pid = start_parent(PARENT, str(tmp_path), "main-thread")

    _kill_nine(parent)

    assert _is_gone(int(pid))


def test_a_new_start_ends_what_a_killed_parent_left_behind(start_parent: StartParent, tmp_path: Path) -> None:
    parent, pid = start_parent(PARENT, str(tmp_path), "side-thread")
    _kill_nine(parent)
    survived = psutil.pid_exists(int(pid))

    ended = end_leftovers(tmp_path)

    assert survived
    assert ended == ("sleeper",)
    assert _is_gone(int(pid))


def test_postgres_starts_again_at_once_after_kill_nine_of_its_parent(start_parent: StartParent, tmp_path: Path) -> None:
    parent, url = start_parent(POSTGRES_PARENT, str(tmp_path / "data"))
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 7 as n")
    _kill_nine(parent)
    server = PostgresServer(tmp_path / "data", durable=False)

    again = server.start()

    with psycopg.connect(again) as connection:
        assert connection.execute("select n from kept").fetchone() == (7,)
    assert again == url
    server.remove()


def test_a_log_that_has_grown_is_kept_aside_once_and_its_writer_goes_on(tmp_path: Path) -> None:
    """What a flood of refused requests writes must not fill the disk."""
    writer = "import sys; [print(line.strip() * 100, flush=True) for line in sys.stdin]"
    log, small = tmp_path / "logs" / "web.log", tmp_path / "postgres.log"
    log.parent.mkdir()
    small.write_text("short")
    with log.open("a") as out:
        log.chmod(0o600)
        child = subprocess.Popen((sys.executable, "-c", writer), stdin=subprocess.PIPE, stdout=out, text=True)

        def write(word: str) -> None:
            before = log.stat().st_size
            child.stdin.write(f"{word}\n")
            child.stdin.flush()
            deadline = time.monotonic() + 60
            while log.stat().st_size == before and time.monotonic() < deadline:
                time.sleep(0.01)

        write("first")
        rotate_logs(tmp_path, most_bytes=400)
        write("second")
        rotate_logs(tmp_path, most_bytes=10_000)
        child.stdin.close()
        child.wait(20)

    kept = log.with_suffix(".log.1")
    assert kept.read_text() == "first" * 100 + "\n"
    assert log.read_text() == "second" * 100 + "\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.rglob("*.log*")) == ["postgres.log", "web.log", "web.log.1"]
