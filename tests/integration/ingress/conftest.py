"""The doors as users meet them: a real server on a real port, or the command line's application, and a real ledger.

Hints stand at their port, there is no Redis, and logging is as before after each test.
"""

import logging
import queue
import sys
import threading
import time
from dataclasses import dataclass, replace

import pytest
import requests
import structlog
import uvicorn
from fastapi import FastAPI

from config.settings import load_settings
from ingress.slow_clients import PatientProtocol
from ingress.web import create_web, serving
from ledger.api_keys import ApiKeys
from ledger.store import PostgresLedger
from tasks import app as application
from tasks.app import Entrega
from worker.metrics import make_recorder
from worker.wiring import build_engine

BOOTSTRAP = "uma-chave-inventada-bem-comprida"


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger()
    names = list(root.manager.loggerDict)
    kept = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    levels = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names}
    yield
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = kept
    for name, (level, propagate) in levels.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = propagate
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


class Voice:
    def __init__(self):
        self.sent = []
        self.next = queue.Queue()

    def send(self, hints):
        ids = [each.id for each in hints]
        self.sent += ids
        self.next.put(ids)
        return len(ids)

    def heard(self):
        (id_,) = self.next.get(timeout=60)
        return id_

    def backlog(self):
        return len(self.sent)


class HastyProtocol(PatientProtocol):
    headers_within_s = 0.5
    read_within_s = 0.5


@dataclass(frozen=True)
class Door:
    """One running web process, and a key to it."""

    url: str
    key: str
    app: Entrega
    voice: Voice
    web: FastAPI

    def ask(self, method, path, *, key=None, timeout=60, **more):
        headers = {"Authorization": f"Bearer {key or self.key}"} | more.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=timeout, **more)

    def post(self, path, body=None, **more):
        return self.ask("POST", path, json=body, **more)

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def with_key(self, producer, *scopes):
        _, secret = ApiKeys(self.app.database).create(producer, scopes, actor="ana")
        return replace(self, key=secret)


def make_app(tmp_path, database, ledger, voice):
    app = Entrega("doors")
    overrides = {
        "database_url": "postgresql://x@127.0.0.1:1/x",
        "redis_url": "redis://127.0.0.1:1/0",
        "entrega_data": tmp_path,
        "entrega_bootstrap_key": BOOTSTRAP,
        "crm_api_url": "http://127.0.0.1:9",
        "crm_api_key": "invented",
        "whatsapp_access_token": "invented",
        "whatsapp_phone_number_id": "123456789012345",
        "smtp_host": "127.0.0.1",
        "from_email": "avisos@exemplo.com.br",
    }
    app.__dict__ |= {"settings": load_settings(overrides), "database": database, "ledger": ledger, "hints": voice}
    app.engine_factory = lambda: build_engine(app, make_recorder(enabled=False))
    return app


@pytest.fixture
def doors(tmp_path, database, ledger):
    """Start web processes; each is stopped at the end."""
    servers = []

    def start(*, protocol=PatientProtocol, book=None, change=lambda app: None):
        voice = Voice()
        app = make_app(tmp_path, database, book or ledger, voice)
        change(app)
        web = create_web(app, metrics_folder=None)
        config = serving(web, app.settings)
        config.port, config.http = 0, protocol
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        deadline = time.monotonic() + 120
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return Door(f"http://127.0.0.1:{port}", BOOTSTRAP, app, voice, web)

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def door(doors):
    return doors()


@pytest.fixture
def stranger(database, ledger):
    """Return a ledger whose Postgres is away."""
    from ledger.database import connect

    engine = connect("postgresql+psycopg://nobody@127.0.0.1:1/none", pool_size=1)
    yield PostgresLedger(engine, replace(ledger.vault, engine=engine))
    engine.dispose()


@pytest.fixture
def voice(monkeypatch, ledger, archive, database):
    voice = Voice()
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    parts = {"settings": values, "ledger": ledger, "archive": archive, "database": database, "hints": voice}
    for name, part in parts.items():
        monkeypatch.setitem(application.__dict__, name, part)
    built = ("intake", "accounts")
    for name in built:
        monkeypatch.delitem(application.__dict__, name, raising=False)
    yield voice
    for name in built:
        application.__dict__.pop(name, None)
