"""The spare clock on a real tick table: it speaks up for ticks that nobody took, and for no others."""

from types import SimpleNamespace

import pytest

from config.timetable import TIMETABLE
from delivery.errors import LedgerUnavailable
from worker.clock import SpareClock

ALL = [tick.task for tick in TIMETABLE]


class Task:
    def __init__(self, name, sent):
        self.name, self.sent = name, sent

    def apply_async(self, *, expires):
        self.sent.append((self.name, expires))


class AwayArchive:
    def last_tick(self, name):
        raise LedgerUnavailable("Postgres does not answer")


@pytest.fixture
def app(archive):
    sent = []
    tasks = {name: Task(name, sent) for name in ALL}
    return SimpleNamespace(archive=archive, hints=SimpleNamespace(backlog=lambda: 0), tasks=tasks, sent=sent)


def take_all(desk):
    for tick in TIMETABLE:
        desk.begin_tick(tick.task, every=tick.every)


def test_a_fresh_system_gets_every_tick_at_once_each_with_its_own_expiry(app):
    found = SpareClock(app).look()

    assert found == ALL
    assert app.sent == [(tick.task, tick.expires.total_seconds()) for tick in TIMETABLE]


def test_while_somebody_keeps_the_time_it_is_silent(app, desk):
    take_all(desk)

    assert SpareClock(app).look() == []
    assert app.sent == []


def test_a_tick_that_nobody_took_for_three_intervals_is_sent_and_no_other(app, desk, sql):
    take_all(desk)
    sql("UPDATE ticks SET at = now() - interval '16 seconds' WHERE name IN ('sweep', 'drain')")

    assert SpareClock(app).look() == ["sweep"]


@pytest.mark.parametrize("away", ["broker", "ledger"])
def test_without_broker_or_ledger_it_waits(app, away):
    parts = {"broker": {"hints": SimpleNamespace(backlog=lambda: None)}, "ledger": {"archive": AwayArchive()}}
    vars(app).update(parts[away])

    assert SpareClock(app).look() == []
    assert app.sent == []
