"""An alert is told once, everywhere it should be, whatever the number of failing deliveries."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging import ERROR, WARNING

import pytest

from config.policy import load_specs
from delivery.commands import CreateLead
from delivery.errors import LedgerUnavailable
from delivery.ids import new_id
from delivery.outcomes import Receipt, Rejected, Succeeded
from delivery.ports import Claimed, Order, Settlement
from worker.alerts import Alarm
from worker.breaker import Changed
from worker.metrics import PrometheusRecorder, render_metrics

LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
REFUSED = Rejected("unauthorized", "the token was refused", held=True)


@dataclass
class Book:
    """What all workers know: says yes once for each account and code, or is away."""

    away: bool = False
    told: set[tuple[str, str]] = field(default_factory=set)
    asked: int = 0

    def record(self, alert, *, quiet):
        self.asked += 1
        {False: lambda: None, True: self._fail}[self.away]()
        new = (alert.account, alert.code) not in self.told
        self.told.add((alert.account, alert.code))
        return new

    def end(self, account, code):
        {False: lambda: None, True: self._fail}[self.away]()
        self.told.discard((account, code))

    def _fail(self):
        raise LedgerUnavailable("away")


class World:
    def __init__(self, **book):
        self.lines, self.reports, self.now = [], [], 100.0
        self.book = Book(**book)
        self.recorder = PrometheusRecorder()

    def log(self, level, event, **fields):
        self.lines.append((level, event, fields))

    def alarm(self):
        return Alarm(
            specs=load_specs(),
            book=self.book,
            recorder=self.recorder,
            report=self.reports.append,
            log=self,
            clock=lambda: self.now,
        )


def ended(outcome=REFUSED, account="crm:default"):
    order = Order(new_id(), account, LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC))
    return Settlement(Claimed(order, "tests", 1, {}, 0), outcome)


def test_an_alert_is_a_line_a_count_and_a_report():
    world = World()

    world.alarm().hear(ended())

    level, event, fields = world.lines[0]
    assert (level, event, len(world.reports)) == (ERROR, "alert", 1)
    assert fields == {
        "severity": "P1",
        "account": "crm:default",
        "service": "crm",
        "code": "unauthorized",
        "reason": "the token was refused",
        "next": "fix what `entrega doctor` names, then: entrega resume crm:default",
    }
    text = render_metrics(recorder=world.recorder).decode()
    assert 'entrega_alerts_total{code="unauthorized",service="crm",severity="P1"} 1.0' in text


@pytest.mark.parametrize("away", [False, True])
def test_ten_thousand_failing_deliveries_make_one_alert_and_one_question(away):
    world = World(away=away)
    alarm, failed = world.alarm(), ended()

    [alarm.hear(failed) for _ in range(10_000)]

    assert (len(world.lines), len(world.reports), world.book.asked) == (1, 1, 1)


def test_what_another_worker_told_is_not_told_again():
    world = World()

    world.alarm().hear(ended())
    world.alarm().hear(ended())

    assert len(world.lines) == 1


def test_another_code_or_account_is_another_alert():
    world = World()
    alarm = world.alarm()

    alarm.hear(ended())
    alarm.hear(ended(Rejected("forbidden", "no permission")))
    alarm.hear(ended(account="crm:second"))

    assert len(world.lines) == 3


def test_after_an_account_was_resumed_the_next_failure_is_told():
    world = World()
    alarm = world.alarm()
    alarm.hear(ended())

    world.book.told.clear()
    world.now += 5
    alarm.hear(ended())

    assert len(world.lines) == 2


def test_a_success_asks_nobody():
    world = World()

    world.alarm().hear(ended(Succeeded(Receipt("lead-1"))))

    assert (world.lines, world.book.asked) == ([], 0)


def test_a_notice_is_a_warning():
    world = World()

    world.alarm().hear(ended(Rejected("template_unusable", "paused")))

    assert world.lines[0][0] == WARNING


def breaker(after, account="crm:default"):
    return Changed(account, "create_lead", "closed", after, failures=7, calls=10, shared=True)


def test_a_breaker_that_opens_is_a_p0_and_is_over_when_it_closes():
    world = World()
    alarm = world.alarm()

    alarm.breaker_changed(breaker("open"))
    open_alerts = set(world.book.told)
    alarm.breaker_changed(breaker("half-open"))
    alarm.breaker_changed(breaker("closed"))

    assert [(each[2]["severity"], each[2]["code"], each[2]["reason"]) for each in world.lines] == [
        ("P0", "breaker_open", "its circuit breaker opened: 7 of 10 calls failed; its deliveries wait")
    ]
    assert (open_alerts, world.book.told) == ({("crm:default", "breaker_open")}, set())


def test_a_breaker_of_a_producers_host_wakes_no_operator():
    world = World()

    world.alarm().breaker_changed(breaker("open", account="callback:loja.exemplo.com.br"))

    assert world.lines == []


def test_a_breaker_that_closes_while_the_ledger_is_away_stops_nothing():
    World(away=True).alarm().breaker_changed(breaker("closed"))
