"""What a producer may have waiting is bound, also without a policy of its own, and counting it stays cheap."""

import pytest

from delivery.producers import DEFAULT, ProducerPolicy
from ingress.holdings import Holdings
from ingress.problems import Problem
from ledger.reading import Holding


class Ledger:
    """Tells what waits, and lets the clock run while it counts."""

    def __init__(self, *, takes=0.0, **held):
        self.held, self.takes, self.now, self.asked = held, takes, 100.0, 0

    def count(self):
        self.asked += 1
        self.now += self.takes
        return self.held

    def clock(self):
        return self.now


def holdings(ledger, policy=DEFAULT):
    return Holdings(ledger.count, lambda _: policy, ticks=ledger.clock)


@pytest.mark.parametrize("held", [Holding(DEFAULT.most_open, 0), Holding(60, DEFAULT.most_open_mb * 1_000_000)])
def test_a_producer_without_a_policy_has_no_more_waiting_than_the_common_number(held):
    book = holdings(Ledger(loja=held))

    with pytest.raises(Problem) as caught:
        book.check("loja")

    assert (caught.value.code, caught.value.retry_after_s) == ("too_much_waits", 60)
    book.check("outra")


def test_what_was_accepted_since_the_last_count_is_added():
    book = holdings(Ledger(loja=Holding(3, 0)), ProducerPolicy(most_open=5))
    book.check("loja")
    book.check("loja")

    with pytest.raises(Problem):
        book.check("loja")


def test_the_ledger_is_asked_now_and_then():
    ledger = Ledger()
    book = holdings(ledger)
    for _ in range(100):
        book.check("loja")

    ledger.now += 2
    book.check("loja")

    assert ledger.asked == 2


def test_a_count_that_takes_long_is_believed_for_longer():
    ledger = Ledger(takes=1.0)
    book = holdings(ledger)
    book.check("loja")

    ledger.now += 19
    book.check("loja")
    ledger.now += 2
    book.check("loja")

    assert ledger.asked == 2


def test_a_fresh_count_takes_the_place_of_what_was_added():
    ledger = Ledger(loja=Holding(3, 0))
    book = holdings(ledger, ProducerPolicy(most_open=5))
    book.check("loja")
    book.check("loja")
    ledger.now += 2

    book.check("loja")
