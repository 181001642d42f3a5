"""The shared breaker on a Redis that forgot: the ledger says whether it was open, once for all workers."""

import time
from datetime import timedelta

from delivery.errors import LedgerUnavailable
from delivery.ports import Settlement
from ledger.breakers import OpenBreakers
from tests.integration.worker.test_breaker_redis import BUSY, GOOD, NAME, SHORT, Log, claimed, redis, specs
from worker.breaker import BreakerGate

__all__ = ["redis"]


class Record(set):
    """The ledger's record of open breakers, and whether it can be asked."""

    away = False

    def keep(self, name):
        self._check()
        self.add(name)

    def forget(self, name):
        self._check()
        self.discard(name)

    def stands(self, name):
        self._check()
        return name in self

    def _check(self):
        if self.away:
            raise LedgerUnavailable("away")


def let_fail(gate, n=20):
    tried = [claimed() for _ in range(n)]
    gone = [each for each, shut in zip(tried, gate.closed(tried), strict=True) if shut is None]
    gate.ended([Settlement(each, BUSY, 503) for each in gone])
    return len(gone)


def test_a_breaker_that_was_open_is_open_again_after_redis_was_emptied(redis):
    book = Record()
    gates = [BreakerGate(specs(open_for=SHORT), redis, book=book, log=Log()) for _ in range(4)]
    let_fail(gates[0])
    assert book == {NAME}

    redis.flushall()

    assert [let_fail(each) for each in gates] == [0, 0, 0, 0]
    assert {each.status("crm:default", "create_lead").state for each in gates} == {"open"}


def test_at_trial_time_a_provider_that_still_fails_gets_the_trials_and_no_more(redis):
    book = Record()
    gates = [BreakerGate(specs(open_for=timedelta(milliseconds=50)), redis, book=book, log=Log()) for _ in range(4)]
    let_fail(gates[0])
    redis.flushall()
    let_fail(gates[1])  # the first question finds nothing, and asks the ledger
    time.sleep(0.06)

    calls = [sum(shut is None for shut in each.closed([claimed() for _ in range(60)])) for each in gates]

    assert sum(calls) == 3


def test_a_process_that_never_saw_it_open_keeps_to_the_record_too(redis):
    book = Record([NAME])
    fresh = BreakerGate(specs(), redis, book=book, log=Log())

    assert let_fail(fresh) == 0
    assert fresh.room("crm:default", "create_lead", within=timedelta(seconds=5), most=60) == []


def test_upkeep_foresees_no_flood_after_redis_was_emptied(redis):
    fresh = BreakerGate(specs(), redis, book=Record([NAME]), log=Log())

    assert fresh.room("crm:default", "create_lead", within=timedelta(seconds=5), most=60) == []


def test_a_breaker_that_closed_is_closed_for_an_emptied_redis(redis):
    book = Record()
    gate = BreakerGate(specs(open_for=timedelta()), redis, book=book, log=Log())
    let_fail(gate)
    for _ in range(3):
        trial = claimed()
        assert gate.closed([trial]) == [None]
        gate.ended([Settlement(trial, GOOD)])
    redis.flushall()

    assert book == set()
    assert let_fail(gate, n=5) == 5


def test_the_ledger_is_asked_once_for_a_breaker_that_redis_has_no_word_of(redis):
    asked = []
    book = Record()
    book.stands = lambda name: asked.append(name) or False
    gates = [BreakerGate(specs(), redis, book=book, log=Log()) for _ in range(3)]

    for gate in gates:
        let_fail(gate, n=2)

    assert asked == [NAME]


def test_a_ledger_that_is_away_stops_no_call_and_is_asked_again(redis):
    book = Record([NAME])
    gate = BreakerGate(specs(), redis, book=book, log=Log())
    book.away = True
    first = gate.closed([claimed()])
    book.away = False

    assert first == [None]
    assert let_fail(gate) == 0


def test_what_could_not_be_recorded_is_said(redis):
    book, log = Record(), Log()
    book.away = True

    let_fail(BreakerGate(specs(), redis, book=book, log=log))

    assert "breaker_not_recorded" in str(log.lines)


def test_the_record_of_the_ledger_outlives_redis(database):
    book = OpenBreakers(database)

    book.keep(NAME)
    book.keep(NAME)
    assert [book.stands(NAME), book.stands("crm:outra/create_lead")] == [True, False]
    book.forget(NAME)
    assert not book.stands(NAME)
