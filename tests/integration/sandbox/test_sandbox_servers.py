"""The embedded PostgreSQL and Valkey: real servers, data that survive, addresses that stay."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
import pytest
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from sandbox.children import Child, Command
from sandbox.doors import SandboxError
from sandbox.postgres import PostgresServer, temporary_postgres
from sandbox.valkey import ValkeyServer
from tests.others import readable_by_others


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with temporary_postgres() as server:
        yield server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path / "a folder with spaces")
    server.start()
    yield server
    server.stop()


def _run(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement)


def _values(url: str, table: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.SQL("select * from {}").format(sql.Identifier(table))).fetchall()


def test_postgres_is_version_18_and_speaks_utc(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute("select current_setting('server_version_num')::int / 10000, now()::text").fetchone()

    assert row is not None
    assert row[0] == 18
    assert row[1].endswith("+00")


def test_postgres_never_runs_as_root(postgres: PostgresServer) -> None:
    assert psutil.Process(postgres.pid).uids().effective != 0


def test_postgres_refuses_a_wrong_password(postgres: PostgresServer) -> None:
    password = postgres.url.split(":")[2].split("@")[0]

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url.replace(password, "wrong"))


def test_data_and_address_of_postgres_survive_a_restart(postgres: PostgresServer) -> None:
    before = postgres.url
    _run(before, "create table survived_restart as select 1 as n")

    after = postgres.restart()

    assert after == before
    assert _values(after, "survived_restart") == [(1,)]


def test_committed_data_of_postgres_survive_kill_nine_with_clients_connected(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url) as connection:
        connection.execute("create table survived_kill as select 2 as n")
        connection.commit()
        postgres.kill()

    url = postgres.start()

    assert _values(url, "survived_kill") == [(2,)]


def test_a_second_postgres_on_the_same_data_is_refused(postgres: PostgresServer) -> None:
    with pytest.raises(SandboxError, match="postgres is already running"):
        PostgresServer(postgres.data).start()


def test_a_lock_file_whose_pid_belongs_to_another_program_does_not_stop_postgres(postgres: PostgresServer) -> None:
    home = postgres._home
    assert home is not None
    postgres.kill()
    lock = home.folder / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join(["1", *lines[1:]]) + "\n")

    postgres.start()

    assert postgres.running


def test_postgres_moves_to_another_port_when_its_own_is_taken(postgres: PostgresServer) -> None:
    before = postgres.url
    port = int(before.rsplit(":", 1)[1].split("/")[0])
    postgres.stop()
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        after = postgres.start()

    assert after != before
    assert _values(after, "pg_database")


def test_a_lost_password_file_is_named_as_the_cause(postgres: PostgresServer) -> None:
    postgres.stop()
    kept = (postgres.data / "postgres.json").read_text()
    (postgres.data / "postgres.json").unlink()

    with pytest.raises(SandboxError, match=r"postgres\.json"):
        postgres.start()

    (postgres.data / "postgres.json").write_text(kept)
    assert postgres.start()


def test_nothing_runs_after_postgres_was_stopped(postgres: PostgresServer) -> None:
    family = [psutil.Process(postgres.pid), *psutil.Process(postgres.pid).children(recursive=True)]

    postgres.stop()

    assert [process for process in family if process.is_running()] == []
    assert postgres.start()


def test_data_and_address_of_valkey_survive_a_restart_and_kill_nine(valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        client.set("restart", "1")
        first = valkey.restart()
        client.set("kill", "2")
        valkey.kill()
        second = valkey.start()

        assert client.mget("restart", "kill") == ["1", "2"]
    assert first == second == valkey.url


def test_valkey_never_evicts_and_writes_every_command_down(valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
        settings = client.config_get("maxmemory-policy", "appendonly", "appendfsync", "bind")

    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "bind": "127.0.0.1",
    }


def test_valkey_refuses_strangers_and_keeps_its_password_private(valkey: ValkeyServer) -> None:
    port = int(valkey.url.rsplit(":", 1)[1].split("/")[0])

    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.AuthenticationError):
        client.ping()

    assert stat.S_IMODE((valkey.data / "valkey.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE((valkey.data / "valkey.json").stat().st_mode) == 0o600


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every account can pass through, as root's data folder is for Postgres's account."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def test_no_other_account_can_read_what_lies_in_valkey(passable: Path) -> None:
    server = ValkeyServer(passable / "data")
    with redis.Redis.from_url(server.start()) as client:
        client.rpush("celery", "a foreign client's command")
    server.stop()
    (passable / "seen").touch()

    assert list(passable.rglob("*.aof"))
    assert readable_by_others(passable) == [str(passable / "seen")]
    assert stat.S_IMODE((passable / "data" / "valkey").stat().st_mode) == 0o700


def test_a_folder_that_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey").chmod(0o711)

    server.start()
    server.stop()

    assert stat.S_IMODE((tmp_path / "valkey").stat().st_mode) == 0o700


def test_a_child_writes_for_its_own_account_alone(tmp_path: Path) -> None:
    child = Child(
        tmp_path, Command("touch", ("/bin/sh", "-c", "touch made; mkdir folder"), tmp_path / "log", cwd=tmp_path)
    )
    child.start()
    psutil.Process(child.pid).wait(30)
    child.stop()

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("made", "folder", "log")]
    assert modes == [0o600, 0o700, 0o600]


def test_a_second_valkey_on_the_same_data_is_refused(valkey: ValkeyServer) -> None:
    with pytest.raises(SandboxError, match="valkey is already running"):
        ValkeyServer(valkey.data).start()
