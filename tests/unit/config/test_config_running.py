"""One system runs in a data folder; what it wrote down is believed there alone, and only while it lives."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.running import AlreadyRunning, Occupied, announced, occupy, servers_folder
from config.settings import load_settings

VARIABLES = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:5432/x", "ENTREGA_PORT": "8080"}
HOLD_UNTIL_KILLED = """
import sys, pathlib
from config.running import occupy
here = occupy(pathlib.Path(sys.argv[1]))
here.announce({"ENTREGA_PORT": "8080"})
print("announced", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder."""
    found = tmp_path / "data"
    found.mkdir()
    return found


@pytest.fixture
def first(folder: Path) -> Iterator[Occupied]:
    """A system that runs in the folder."""
    occupied = occupy(folder)
    occupied.answers_at("http://127.0.0.1:8080")
    occupied.announce(VARIABLES)
    yield occupied
    occupied.leave()


def _contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()}


def test_what_a_running_system_announced_is_read_in_its_folder(first: Occupied, folder: Path) -> None:
    assert announced(folder) == VARIABLES


def test_only_its_owner_can_read_what_was_announced(first: Occupied, folder: Path) -> None:
    assert {each.stat().st_mode & 0o777 for each in folder.iterdir()} == {0o600}


def test_a_second_system_is_refused_and_told_where_the_first_one_is(first: Occupied, folder: Path) -> None:
    with pytest.raises(AlreadyRunning) as refused:
        occupy(folder)

    assert f"already runs in {folder}: http://127.0.0.1:8080 (process {os.getpid()})" in str(refused.value)


def test_a_refused_system_changes_nothing_in_the_folder(first: Occupied, folder: Path) -> None:
    before = _contents(folder)

    with pytest.raises(AlreadyRunning):
        occupy(folder)

    assert _contents(folder) == before
    assert announced(folder) == VARIABLES


def test_a_system_that_is_still_starting_is_named_as_well(folder: Path) -> None:
    starting = occupy(folder)

    with pytest.raises(AlreadyRunning, match="it is still starting"):
        occupy(folder)
    starting.leave()


def test_the_folder_is_free_again_once_the_first_system_left(folder: Path) -> None:
    occupy(folder).leave()

    occupy(folder).leave()

    assert announced(folder) == {}


def test_a_copy_of_the_folder_of_a_running_system_is_not_believed(first: Occupied, folder: Path) -> None:
    copy = shutil.copytree(folder, folder.with_name("copy"))

    assert announced(copy) == {}


def test_a_copy_made_of_hard_links_is_not_believed_either(first: Occupied, folder: Path) -> None:
    copy = shutil.copytree(folder, folder.with_name("copy"), copy_function=os.link)

    assert announced(copy) == {}


def test_settings_read_in_a_copy_know_no_server(first: Occupied, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(folder, folder.with_name("copy"))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    original, copied = load_settings({"entrega_data": folder}), load_settings({"entrega_data": copy})

    assert original.database_url is not None
    assert copied.database_url is None


def test_a_second_system_starts_in_the_copy(first: Occupied, folder: Path) -> None:
    copy = shutil.copytree(folder, folder.with_name("copy"))

    occupy(copy).leave()

    assert announced(folder) == VARIABLES


def test_what_a_killed_system_left_behind_is_not_believed_and_blocks_no_start(folder: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", HOLD_UNTIL_KILLED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None
    killed.stdout.readline()
    believed = announced(folder)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    assert believed == {"ENTREGA_PORT": "8080"}
    assert (folder / "running.json").exists()
    assert announced(folder) == {}
    occupy(folder).leave()


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"folder": 5}', '{"pid": 1, "born": 0, "variables": {"A": "b"}}'])
def test_a_damaged_or_foreign_announcement_is_not_believed(first: Occupied, folder: Path, written: str) -> None:
    (folder / "running.json").write_text(written, encoding="utf-8")

    assert announced(folder) == {}


def test_a_lock_file_without_sense_still_refuses(first: Occupied, folder: Path) -> None:
    (folder / "running.lock").write_text(json.dumps([1]), encoding="utf-8")

    with pytest.raises(AlreadyRunning, match="another process"):
        occupy(folder)


def test_the_environment_that_used_a_folder_first_has_it_to_itself_and_others_a_folder_in_it(folder: Path) -> None:
    first = servers_folder(folder, "standins")

    assert (first, servers_folder(folder, "sandbox")) == (folder, folder / "sandbox")
    assert servers_folder(folder, "standins") == folder
