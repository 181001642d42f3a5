"""What a message does when the threads of its account are in use, and that upkeep holds one thread for each task."""

import threading
from types import SimpleNamespace

import pytest

from config.settings import load_settings
from delivery.ids import new_id
from delivery.lane import Turn
from tasks import app, commands, confirm, create_lead, upkeep

ID = str(new_id())
CRM = "crm:default"


class Lane:
    """A lane that keeps who asked for it."""

    def __init__(self, turn=Turn.BUSY, during=lambda: None):
        self.turn, self.during = turn, during
        self.asked = []

    def takes(self, *_):
        return False

    def work(self, account, kind, told):
        self.asked.append((account, kind))
        self.during()
        return self.turn


@pytest.fixture
def worker(monkeypatch):
    """Return what the worker did: deliveries attempted alone, and hints sent."""
    did = SimpleNamespace(alone=[], sent=[])
    values = {"database_url": "postgresql://entrega@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"}
    parts = {
        "settings": load_settings(values),
        "lone_engine": SimpleNamespace(deliver=lambda ids: did.alone.extend(map(str, ids)) or []),
        "hints": SimpleNamespace(send=did.sent.extend),
        "database": None,
    }
    for name, part in parts.items():
        monkeypatch.setitem(app.__dict__, name, part)
    app.__dict__.pop("threads", None)
    monkeypatch.setattr(commands, "first_ready", lambda _, account, kind: [f"{kind} of {account}"])
    yield did
    app.__dict__.pop("threads", None)


def follow(monkeypatch, lane, **headers):
    monkeypatch.setitem(app.__dict__, "lanes", lane)
    create_lead.push_request(id=ID, called_directly=False, args=[ID], kwargs={}, retries=0, **headers)
    try:
        create_lead.carry_out(ID, (), {})
    finally:
        create_lead.pop_request()


def use(monkeypatch, threads, *, during):
    """Hold threads of the CRM account while something happens."""
    if not threads:
        return during()
    with app.threads.held_by(CRM):
        return use(monkeypatch, threads - 1, during=during)


def test_a_message_goes_side_by_side_once_half_of_its_accounts_threads_are_held(worker, monkeypatch):
    lane = Lane()

    use(monkeypatch, 4, during=lambda: follow(monkeypatch, lane, entrega_lane=CRM))

    assert lane.asked == [(CRM, "create_lead")]
    assert worker.alone == []


def test_a_message_whose_accounts_threads_are_all_held_takes_none_and_is_looked_for_once_one_is_free(
    worker, monkeypatch
):
    lane = Lane()
    full = Lane(during=lambda: use(monkeypatch, 7, during=lambda: follow(monkeypatch, lane, entrega_lane=CRM)))

    follow(monkeypatch, full, entrega_lane=CRM, entrega_leads=True)

    assert (lane.asked, worker.alone) == ([], [])
    assert worker.sent == ["create_lead of crm:default"]


def test_a_name_that_is_no_account_breaks_nothing(worker, monkeypatch):
    lane = Lane(turn=Turn.SHUT)

    follow(monkeypatch, lane, entrega_lane="nobody", entrega_leads=True)

    assert worker.alone == [ID]


def test_the_lane_of_each_account_has_threads_of_its_own(worker, monkeypatch):
    monkeypatch.setitem(app.__dict__, "engine", None)
    first, again, second = app.lanes.calls("t:first"), app.lanes.calls("t:first"), app.lanes.calls("t:second")

    assert first is again
    assert first is not second


def test_a_task_of_upkeep_that_hangs_holds_one_thread_however_often_its_tick_comes(worker, monkeypatch):
    ticks, hanging, go_on = [], threading.Event(), threading.Event()
    monkeypatch.setattr(upkeep.Desk, "begin_tick", lambda _, name, every: ticks.append(name) or True)

    def hang():
        hanging.set()
        go_on.wait(10)

    monkeypatch.setattr(confirm, "run", hang)
    thread = threading.Thread(target=confirm)
    thread.start()
    hanging.wait(10)

    confirm()

    go_on.set()
    thread.join(10)
    assert ticks == ["confirm"]
