from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import rate
from kombu.exceptions import OperationalError

from config.settings import load_settings
from delivery.errors import FieldIssue, InvalidCommand, LedgerUnavailable, ProducerRefused
from delivery.ids import new_id
from delivery.intake import Answer
from delivery.lane import Turn
from delivery.outcomes import Deferred, Receipt, Succeeded
from tasks import app, commands, create_lead
from tasks.commands import ComeBack, QuietRequest, _shown, message_refused

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
ID = str(new_id())


class Door:
    """An intake that accepts, or fails as told, and keeps what it was given."""

    def __init__(self, fault=None):
        self.given = []
        self.fault = fault

    def submit(self, kind, body, *, producer, origin=None):
        self.given.append((kind, body, producer, origin))
        if self.fault:
            raise self.fault
        return Answer(ID, "ready", kind, "crm:default", "", "wait", None, None)


class Machine:
    """An engine that ends every delivery in the same way."""

    def __init__(self, outcome=None, callback_url=None, late=timedelta()):
        self.outcome = outcome
        self.callback_url = callback_url
        self.late = late
        self.asked = []

    def deliver(self, ids):
        self.asked += ids
        options = SimpleNamespace(order_key=None, callback_url=self.callback_url)
        order = SimpleNamespace(account="crm:default", command=SimpleNamespace(options=options))
        claimed = SimpleNamespace(tries={}, order=order, late=self.late)
        return [SimpleNamespace(outcome=self.outcome, claimed=claimed)] if self.outcome else []


class Lane:
    """A lane where these settlements end, and keeps who asked for it and what was handed to it."""

    def __init__(self, *ended, turn=Turn.EMPTY, has_room=False):
        self.ended = ended
        self.turn = turn
        self.has_room = has_room
        self.asked, self.handed = [], []

    def takes(self, account, kind, delivery_id):
        self.handed.append((account, kind, str(delivery_id)))
        return self.has_room

    def work(self, account, kind, told):
        self.asked.append((account, kind))
        told(self.ended)
        return self.turn


class Voice:
    """Hints that keep what was sent."""

    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += hints
        return len(self.sent)


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    values = {"database_url": "postgresql://entrega@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"}
    monkeypatch.setitem(app.__dict__, "settings", load_settings(values))


@pytest.fixture
def door(monkeypatch):
    door = Door()
    monkeypatch.setitem(app.__dict__, "intake", door)
    return door


@pytest.fixture
def refused():
    heard = []

    def hear(reason, **_):
        heard.append(reason)

    message_refused.connect(hear)
    yield heard
    message_refused.disconnect(hear)


def run(*args, task_id="m1", **kwargs):
    """Run the task's body as a worker would, without a broker."""
    create_lead.push_request(id=task_id, called_directly=False, args=args, kwargs=kwargs, retries=0)
    try:
        return create_lead.run(*args, **kwargs)
    finally:
        create_lead.pop_request()


def attempt(monkeypatch, outcome, *, lane=None, callback_url=None, hints=None, late=timedelta(), **headers):
    machine = Machine(outcome, callback_url, late)
    monkeypatch.setitem(app.__dict__, "lone_engine", machine)
    monkeypatch.setitem(app.__dict__, "lanes", lane or Lane())
    monkeypatch.setitem(app.__dict__, "hints", hints or Voice())
    create_lead.push_request(id=ID, called_directly=False, args=[ID], kwargs={}, retries=0, **headers)
    try:
        create_lead.carry_out(ID, (), {})
    finally:
        create_lead.pop_request()
    return machine


@pytest.mark.parametrize("ask", ["get", "wait", "ready", "successful"])
def test_a_result_says_where_to_look_instead(door, ask):
    result = create_lead.delay(**LEAD)

    with pytest.raises(NotImplementedError, match=f"entrega show {ID}"):
        getattr(result, ask)()


@pytest.mark.parametrize("ask", ["status", "state", "result", "traceback"])
def test_so_does_its_state(door, ask):
    result = create_lead.delay(**LEAD)

    with pytest.raises(NotImplementedError, match=f"/v1/deliveries/{ID}"):
        getattr(result, ask)


def test_delay_writes_the_row_and_returns_its_id(door):
    result = create_lead.delay(**LEAD)

    assert result.id == ID
    assert door.given == [("create_lead", LEAD, "celery", None)]


def test_a_wrong_command_is_refused_at_the_callers_side(monkeypatch):
    fault = InvalidCommand("create_lead", (FieldIssue("email", "x"),))
    monkeypatch.setitem(app.__dict__, "intake", Door(fault))

    with pytest.raises(InvalidCommand):
        create_lead.delay(**LEAD)


def test_celerys_own_times_become_the_commands(door):
    eta = datetime(2026, 12, 1, tzinfo=UTC)

    create_lead.apply_async(kwargs=LEAD, eta=eta, expires=eta + timedelta(hours=1))

    assert door.given[0][1]["options"] == {"send_at": eta, "expires_at": eta + timedelta(hours=1)}


def test_a_countdown_becomes_a_send_at(door):
    before = datetime.now(UTC)

    create_lead.apply_async(kwargs=LEAD, countdown=3600)

    assert door.given[0][1]["options"]["send_at"] >= before + timedelta(hours=1)


def test_a_foreign_message_becomes_a_row_under_its_message_id(door):
    run(**LEAD)

    assert door.given == [("create_lead", LEAD, "celery", "m1")]


def test_a_foreign_message_with_a_positional_body_is_taken_too(door):
    run(LEAD)

    assert door.given[0][1] == LEAD


def test_a_foreign_message_with_a_wrong_body_is_refused_and_counted(monkeypatch, refused):
    fault = InvalidCommand("create_lead", (FieldIssue("email", "x"),))
    monkeypatch.setitem(app.__dict__, "intake", Door(fault))

    with pytest.raises(Reject) as caught:
        run(**LEAD)

    assert refused == ["invalid_command"]
    assert not caught.value.requeue


def test_a_foreign_command_for_an_erased_person_is_refused_and_not_held(monkeypatch, refused):
    monkeypatch.setitem(app.__dict__, "intake", Door(ProducerRefused("suppressed")))

    with pytest.raises(Reject) as caught:
        run(**LEAD)

    assert (refused, caught.value.requeue) == (["suppressed"], False)


@pytest.mark.parametrize("value", ["nonsense", 7, None, ["x"]])
def test_a_message_without_an_id_is_refused_and_counted(refused, value):
    with pytest.raises(Reject):
        run(value)

    assert refused == ["malformed"]


@pytest.mark.parametrize(("args", "kwargs"), [((ID, 2, 3), {}), ((ID,), LEAD)])
def test_a_message_with_too_much_in_it_is_refused_and_counted(refused, door, args, kwargs):
    with pytest.raises(Reject):
        run(*args, **kwargs)

    assert refused == ["malformed"]
    assert door.given == []


def test_a_hint_is_attempted(monkeypatch):
    machine = attempt(monkeypatch, Succeeded(Receipt("LEAD-1")))

    assert [str(each) for each in machine.asked] == [ID]


class Noted:
    """Callbacks that wait to be opened."""

    def open_noted(self):
        return ["the callback"]


@pytest.mark.parametrize(
    ("outcome", "url", "sent"),
    [
        (Succeeded(Receipt("LEAD-1")), "https://loja.exemplo.com.br/", ["the callback"]),
        (Succeeded(Receipt("LEAD-1")), None, []),
        (Deferred("unavailable", timedelta(hours=1), "503"), "https://loja.exemplo.com.br/", []),
    ],
)
def test_what_a_producer_wants_to_hear_is_opened_right_after_the_settle(monkeypatch, outcome, url, sent):
    monkeypatch.setitem(app.__dict__, "callbacks", Noted())

    attempt(monkeypatch, outcome, callback_url=url)

    assert app.hints.sent == sent


def test_a_short_wait_comes_back_by_celery(monkeypatch):
    with pytest.raises(ComeBack) as caught:
        attempt(monkeypatch, Deferred("unavailable", timedelta(seconds=2), "503"))

    assert caught.value.wait == timedelta(seconds=2)
    assert str(caught.value) == "unavailable: next attempt in 2.0 s"


@pytest.mark.parametrize(
    "outcome",
    [
        Deferred("unavailable", timedelta(seconds=2), "503", parked=True),
        Deferred("breaker_open", timedelta(seconds=2), "open", burned=False, paced=True),
        Deferred("unavailable", timedelta(seconds=31), "503"),
        None,
    ],
)
def test_longer_waits_are_the_rows_alone(monkeypatch, outcome):
    attempt(monkeypatch, outcome)


class Publisher:
    """Stands where Celery publishes: keeps what would travel, or is away."""

    def __init__(self, fault=None):
        self.sent = []
        self.fault = fault

    def __call__(self, name, args=None, kwargs=None, **options):
        self.sent.append((name, args, kwargs, options))
        if self.fault:
            raise self.fault


def retry(monkeypatch, exc, publisher, **kwargs):
    monkeypatch.setitem(app.__dict__, "send_task", publisher)
    args = [] if kwargs else [ID]
    create_lead.push_request(id="m1", called_directly=False, args=args, kwargs=kwargs, retries=0, delivery_info={})
    try:
        create_lead.retry(exc=exc)
    finally:
        create_lead.pop_request()


def test_the_fast_clock_waits_as_long_as_the_row(monkeypatch):
    publisher = Publisher()

    with pytest.raises(Retry):
        retry(monkeypatch, ComeBack("unavailable", timedelta(seconds=2)), publisher)

    ((name, args, kwargs, options),) = publisher.sent
    assert (name, list(args), dict(kwargs)) == ("create_lead", [ID], {})
    assert (options["countdown"], options["queue"]) == (2.0, "retry")


def test_a_hint_that_cannot_be_sent_is_left_to_the_sweep(monkeypatch):
    with pytest.raises(Ignore):
        retry(monkeypatch, ComeBack("unavailable", timedelta(seconds=2)), Publisher(OperationalError("away")))


def test_a_foreign_command_is_never_dropped_while_the_broker_is_away(monkeypatch):
    with pytest.raises(Reject) as caught:
        retry(monkeypatch, LedgerUnavailable("away"), Publisher(OperationalError("away")), **LEAD)

    assert caught.value.requeue


def test_a_retried_foreign_command_shows_nothing_of_its_content(monkeypatch, door):
    publisher = Publisher()

    with pytest.raises(Retry):
        retry(monkeypatch, LedgerUnavailable("away"), publisher, **LEAD)

    assert publisher.sent[0][3]["kwargsrepr"] == "(not shown)"
    assert door.given == []


@pytest.mark.parametrize(
    ("args", "shown"),
    [([ID], f"('{ID}',)"), ([], "()"), (["ana.teste@exemplo.com.br"], "(not shown)"), ([LEAD], "(not shown)")],
    ids=["an id", "nothing", "an address", "a lead"],
)
def test_only_ids_are_shown(args, shown):
    assert _shown(args) == shown


def test_a_request_shows_ids_and_nothing_else():
    headers = {"id": "m1", "task": "create_lead", "argsrepr": "x", "kwargsrepr": repr(LEAD)}
    message = SimpleNamespace(
        headers=headers, body=b"", payload=([], LEAD, {}), content_type="x", content_encoding="x",
        delivery_info={}, properties={},
    )  # fmt: skip

    request = QuietRequest(message, app=app, task=create_lead, hostname="w")

    assert (request.argsrepr, request.kwargsrepr) == ("()", "(not shown)")
    assert "ana.teste" not in repr(request.info()) + repr(request.info(safe=True))


@pytest.mark.parametrize("name", ["create_lead", "send_whatsapp", "send_email"])
def test_celerys_rate_limit_comes_from_the_spec_and_never_binds_first(name):
    task = app.tasks[name]
    spec = next(each for each in app.specs.values() if name in each.operations)

    # One worker process takes at most about 1,100 messages a second (measured), so 2,000 cannot bind.
    assert task.rate_limit == spec.worker_ceiling
    assert rate(task.rate_limit) >= 2000


@pytest.mark.parametrize("name", ["create_lead", "send_whatsapp", "send_email"])
def test_each_command_task_retries_by_itself_with_backoff_and_jitter(name):
    task = app.tasks[name]

    assert task.autoretry_for == (ComeBack, LedgerUnavailable)
    assert (task.retry_backoff, task.retry_jitter, task.max_retries) == (True, True, None)


@pytest.mark.parametrize(
    ("waited", "asked"),
    [
        ({}, []),
        ({"late": timedelta(milliseconds=500)}, [("crm:default", "create_lead")]),
        ({"eta": "2026-11-22T12:00:00+00:00"}, [("crm:default", "create_lead")]),
    ],
)
def test_what_waits_behind_a_delivery_that_had_to_wait_is_carried_out_with_it(monkeypatch, waited, asked):
    lane = Lane()

    attempt(monkeypatch, Succeeded(Receipt("1")), lane=lane, **waited)

    assert lane.asked == asked


@pytest.mark.parametrize("turn", [Turn.EMPTY, Turn.BUSY])
def test_a_hint_that_leads_a_lane_takes_no_way_of_its_own(monkeypatch, turn):
    lane = Lane(turn=turn)

    machine = attempt(monkeypatch, Succeeded(Receipt("1")), lane=lane, entrega_lane="crm:second", entrega_leads=True)

    assert lane.asked == [("crm:second", "create_lead")]
    assert machine.asked == []


@pytest.mark.parametrize("has_room", [True, False])
def test_a_hint_of_one_delivery_goes_by_a_lane_that_is_being_worked_and_alone_otherwise(monkeypatch, has_room):
    lane = Lane(has_room=has_room)

    machine = attempt(monkeypatch, Succeeded(Receipt("1")), lane=lane, entrega_lane="crm:default")

    assert lane.handed == [("crm:default", "create_lead", ID)]
    assert [str(each) for each in machine.asked] == ([] if has_room else [ID])


def test_where_a_gate_shuts_the_lane_its_hint_waits_for_its_own_slot(monkeypatch):
    machine = attempt(monkeypatch, None, lane=Lane(turn=Turn.SHUT), entrega_lane="crm:default", entrega_leads=True)

    assert [str(each) for each in machine.asked] == [ID]


def test_a_turn_that_is_over_asks_for_the_next_one(monkeypatch):
    monkeypatch.setattr(commands, "first_ready", lambda _, account, kind: [f"{kind} of {account}"])
    monkeypatch.setitem(app.__dict__, "database", None)

    attempt(monkeypatch, None, lane=Lane(turn=Turn.OVER), entrega_lane="crm:default", entrega_leads=True)

    assert app.hints.sent == ["create_lead of crm:default"]


def test_a_lane_of_a_foreign_client_that_is_no_name_is_not_taken_up(monkeypatch):
    lane = Lane()

    attempt(monkeypatch, None, lane=lane, entrega_lane=["crm:default"], entrega_leads=True)

    assert lane.asked == []


@pytest.mark.parametrize(
    ("outcome", "hinted"),
    [
        (Deferred("unavailable", timedelta(seconds=4), "503"), [timedelta(seconds=4)]),
        (Deferred("unavailable", timedelta(seconds=40), "503"), []),
        (Deferred("unavailable", timedelta(seconds=4), "503", parked=True), []),
        (Succeeded(Receipt("1")), []),
    ],
)
def test_what_a_lane_could_not_carry_out_comes_back_by_a_hint_of_its_own(monkeypatch, outcome, hinted):
    options = SimpleNamespace(order_key=None, priority="normal", callback_url=None)
    order = SimpleNamespace(delivery_id=new_id(), command=SimpleNamespace(options=options))
    ended = SimpleNamespace(outcome=outcome, claimed=SimpleNamespace(tries={}, order=order))

    attempt(monkeypatch, Succeeded(Receipt("1")), lane=Lane(ended), entrega_lane="crm:default", entrega_leads=True)

    assert [each.wait for each in app.hints.sent] == hinted
