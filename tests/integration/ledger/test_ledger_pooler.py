"""A pooler that mixes sessions is refused in one sentence, before anything is accepted through it."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from socket import create_connection, create_server
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine

from delivery.errors import LedgerUnusable
from ledger.database import connect
from ledger.schema import check_schema, migrate
from sandbox.doors import free_port

REFUSAL = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0"
WORDS = "leads to a connection pooler such as PgBouncer.*name Postgres itself"
SETTINGS = """
[databases]
entrega = host=127.0.0.1 port={port} dbname=postgres user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
auth_type = any
unix_socket_dir =
pool_mode = transaction
{more}
"""


@pytest.fixture
def refusing_port():
    """A server that speaks as PgBouncer does to a session that asks for settings."""
    with create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    asked = caller.recv(65536)
                    if len(asked) == 8:  # may the line be encrypted?
                        caller.sendall(b"N")
                        caller.recv(65536)
                    caller.sendall(b"E" + (len(REFUSAL) + 4).to_bytes(4, "big") + REFUSAL)

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


def test_a_pooler_that_refuses_the_settings_of_a_session_is_named(refusing_port):
    behind = connect(f"postgresql+psycopg://u:p@127.0.0.1:{refusing_port}/entrega")

    with pytest.raises(LedgerUnusable, match=WORDS):
        check_schema(behind)


@pytest.mark.parametrize("step", [check_schema, migrate])
def test_a_pooler_that_drops_the_settings_of_a_session_is_named(migrated, postgres_url, step):
    dropped = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))

    with pytest.raises(LedgerUnusable, match=WORDS):
        step(dropped)

    dropped.dispose()


@pytest.fixture
def pgbouncer(postgres_url):
    """Start a real one, where there is one: `pgbouncer("a line of its settings")` returns a URL."""
    program = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed here; apt-get install pgbouncer, then run this file again")
    started = []

    with TemporaryDirectory() as name:
        folder = Path(name)

        def start(more):
            server, own = urlsplit(postgres_url), free_port()
            file = folder / "pgbouncer.ini"
            file.write_text(
                SETTINGS.format(port=server.port, user=server.username, password=server.password, own=own, more=more),
                encoding="utf-8",
            )
            for path in (folder, file):
                path.chmod(0o755)
            account = {"user": "nobody"} if os.geteuid() == 0 else {}  # it refuses to run as root
            started.append(subprocess.Popen([program, str(file)], stderr=subprocess.DEVNULL, **account))
            await_port(own)
            return f"postgresql+psycopg://u:p@127.0.0.1:{own}/entrega"

        yield start
        for each in started:
            each.terminate()
            each.wait(10)


def await_port(port):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("pgbouncer did not listen")


@pytest.mark.parametrize("more", ["", "ignore_startup_parameters = options, extra_float_digits"])
def test_a_real_pgbouncer_in_transaction_mode_is_refused_with_the_sentence(migrated, pgbouncer, more):
    behind = connect(pgbouncer(more))

    with pytest.raises(LedgerUnusable, match=WORDS):
        check_schema(behind)

    behind.dispose()
