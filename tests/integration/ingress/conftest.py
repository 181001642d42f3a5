"""The command line's application against a real ledger: no Redis, hints at their port, logging as before each test."""

import logging
import sys
import threading

import pytest
import structlog

from config.settings import load_settings
from tasks import app


class Voice:
    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += [each.id for each in hints]
        return len(self.sent)


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


@pytest.fixture
def voice(monkeypatch, ledger, archive, database):
    voice = Voice()
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    parts = {"settings": values, "ledger": ledger, "archive": archive, "database": database, "hints": voice}
    for name, part in parts.items():
        monkeypatch.setitem(app.__dict__, name, part)
    monkeypatch.delitem(app.__dict__, "intake", raising=False)
    yield voice
    app.__dict__.pop("intake", None)
