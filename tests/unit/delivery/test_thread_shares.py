"""No account, producer or service takes all threads of a worker process."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from config.spec_sections import Threads
from delivery.callbacks import Callback
from delivery.commands import CreateLead
from delivery.ids import new_id
from delivery.outcomes import Deferred, Receipt, Succeeded
from delivery.ports import Claimed, Order, Settlement
from delivery.thread_shares import ThreadShares

NOW = datetime(2026, 11, 22, tzinfo=UTC)
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
TOLD = Callback(endpoint=new_id(), type="delivery.succeeded", timestamp=NOW, data={})


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def shares(clock=None, **changes):
    threads = {name: spec.limits.threads for name, spec in load_specs().items()}
    return ThreadShares(threads | changes, rng=random.Random(1), monotonic=clock or Clock())


def callback(host, producer="loja"):
    return Claimed(Order(new_id(), f"callback:{host}", TOLD, 1, NOW), producer, 1, {}, 0)


def a_lead(account="crm:default"):
    return Claimed(Order(new_id(), account, LEAD, 1, NOW), "loja", 1, {}, 0)


def went(gate, *claimed):
    return [each for each, shut in zip(claimed, gate.closed(claimed), strict=True) if shut is None]


def ended(claimed, seconds=14.0):
    return Settlement(claimed, Succeeded(Receipt("1")), duration=timedelta(seconds=seconds))


def test_one_producers_callbacks_hold_two_threads_however_many_hosts_it_names():
    gate = shares()

    assert len(went(gate, *(callback(f"a{n}.exemplo.com.br") for n in range(32)))) == 2


def test_all_callbacks_together_hold_four_threads():
    gate = shares()

    assert len(went(gate, *(callback(f"a{n}.exemplo.com.br", f"loja{n}") for n in range(32)))) == 4


def test_a_slow_account_leaves_half_of_the_threads_to_the_others():
    gate = shares()

    assert len(went(gate, *(a_lead() for _ in range(32)))) == 8
    assert len(went(gate, a_lead("crm:other"))) == 1


def test_a_call_that_ended_gives_its_thread_back():
    gate = shares()
    first, _ = went(gate, callback("a.exemplo.com.br"), callback("b.exemplo.com.br"))

    gate.ended([ended(first)])

    assert len(went(gate, callback("c.exemplo.com.br"), callback("d.exemplo.com.br"))) == 1


def test_what_finds_no_thread_waits_without_a_counted_attempt_each_for_a_moment_of_its_own():
    gate = shares()
    went(gate, callback("a.exemplo.com.br"), callback("b.exemplo.com.br"))

    back = gate.closed([callback("c.exemplo.com.br"), callback("d.exemplo.com.br")])

    assert [each.burned for each in back] == [False, False]
    assert [each.wait.total_seconds() for each in back] == [0.5, 1.0]
    assert back[0].reason == "callback of loja holds its 2 threads of this worker; this one waits for its turn"


def test_the_wait_follows_how_long_calls_really_hold_a_thread():
    gate = shares()
    for _ in range(30):
        (each,) = went(gate, callback("a.exemplo.com.br"))
        gate.ended([ended(each, seconds=14)])
    went(gate, callback("a.exemplo.com.br"), callback("b.exemplo.com.br"))

    (back,) = gate.closed([callback("c.exemplo.com.br")])

    assert back.wait.total_seconds() == pytest.approx(7, abs=0.1)


def test_no_wait_is_longer_than_ten_minutes():
    gate = shares()
    went(gate, callback("a.exemplo.com.br"), callback("b.exemplo.com.br"))

    waits = [each.wait.total_seconds() for each in gate.closed([callback("c.exemplo.com.br") for _ in range(2000)])]

    assert max(waits) <= 600
    assert len(set(waits[-100:])) == 100


def test_what_waits_for_its_producer_makes_nobody_else_wait():
    gate = shares()
    gate.closed([callback(f"a{n}.exemplo.com.br") for n in range(500)])

    assert gate.closed([callback("b.exemplo.com.br", "another")]) == [None]


def test_a_gate_that_closes_later_costs_no_thread():
    gate = shares()
    claimed = [callback("a.exemplo.com.br"), callback("b.exemplo.com.br")]
    went(gate, *claimed)

    gate.ended([Settlement(each, Deferred("limited", timedelta(), "x", burned=False)) for each in claimed])

    assert gate.closed(claimed) == [None, None]


def test_the_sweep_foresees_free_threads_and_those_that_come_free():
    gate = shares()
    went(gate, callback("a.exemplo.com.br"))

    waits = gate.room("callback:b.exemplo.com.br", "callback", within=timedelta(seconds=1), most=10)

    assert [each.total_seconds() for each in waits] == [0, 0, 0, 0.25, 0.5, 0.75, 1]
    assert gate.room("whatsapp:default", "send_whatsapp", within=timedelta(seconds=1), most=3) == [timedelta()] * 3


def test_those_that_work_side_by_side_for_an_account_hold_its_threads_too():
    gate = shares(crm=Threads(account=1))

    with gate.held_by("crm:default") as first, gate.held_by("crm:default") as second:
        assert (first, second) == (True, False)
        assert went(gate, a_lead()) == []

    assert gate.was_full("crm:default")
    assert not gate.was_full("crm:default")
    assert len(went(gate, a_lead())) == 1


def test_an_account_of_which_half_of_the_threads_are_held_works_side_by_side():
    gate = shares(crm=Threads(account=2))

    before = gate.is_half_used("crm:default")
    went(gate, a_lead())

    assert (before, gate.is_half_used("crm:default")) == (False, True)
