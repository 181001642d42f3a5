"""What upkeep foresees is what the limiter then grants: on a real Valkey, with a clock that the test moves."""

import random
from collections import Counter
from datetime import timedelta
from heapq import heappop, heappush
from itertools import accumulate, count
from operator import itemgetter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.worker.test_limits_redis import SECOND, TUNING, claimed, connect, limits, window
from worker.limits import LimitRules, SharedLimiter

ROUND = timedelta(seconds=5)
names = count()


@pytest.fixture
def redis(redis_url):
    client = connect(redis_url)
    client.flushall()
    yield client
    client.close()


def gate(redis, **values):
    """Return a limiter of an account of its own, and the clock it goes by."""
    clock = SimpleNamespace(us=1_790_000_000 * SECOND)
    rules = LimitRules(
        limits={"crm": limits(**values)},
        lease=lambda _: timedelta(seconds=45),
        recipient_key=lambda _: "r1",
        asked=lambda _: None,
        called=lambda *_: (),
        processes=1,
        tuning=TUNING,
    )
    limiter = SharedLimiter(redis, rules, rng=random.Random(7), instant_us=lambda: clock.us)
    return limiter, clock, f"crm:room{next(names)}"


def us(duration):
    return duration // timedelta(microseconds=1)


windows = st.sampled_from(
    [
        {"per_second": 20},
        {"per_second": 5, "per_minute": 60},
        {"other": (window(50, 10),)},
        {"other": (window(10, 5, 8),)},
        {"per_second": 10, "per_day": 30},
    ]
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=windows, before=st.lists(st.integers(0, SECOND), max_size=60), late=st.integers(0, 60_000))
def test_who_comes_when_it_was_foreseen_is_let_go(redis, values, before, late):
    limiter, clock, account = gate(redis, **values)
    live = [(clock.us + passed, claimed(account)) for passed in accumulate(before)]
    waiting = _come(limiter, clock, live, until=clock.us + sum(before))
    now, jitter = clock.us, random.Random(late)

    foreseen = [
        (now + us(wait) + jitter.randint(0, late), claimed(account))
        for wait in limiter.room(account, "create_lead", within=ROUND, most=40)
    ]
    asked = Counter()
    _come(limiter, clock, waiting + foreseen, until=now + us(ROUND) + late, asked=asked)

    assert {asked[each.order.delivery_id] for _, each in foreseen} <= {1}


def _come(limiter, clock, coming, until, asked=None):
    """Let deliveries ask when they come and again when they were told to; return those that wait at the end."""
    number, asked = count(), Counter() if asked is None else asked
    heap = [(at, next(number), each) for at, each in sorted(coming, key=itemgetter(0))]
    while heap and heap[0][0] <= until:
        at, _, each = heappop(heap)
        clock.us = max(clock.us, at)
        shut = limiter.closed([each])[0]
        asked[each.order.delivery_id] += 1
        if shut:
            heappush(heap, (clock.us + us(shut.wait), next(number), each))
    clock.us = max(clock.us, until)
    return [(at, each) for at, _, each in heap]


def test_a_backlog_goes_out_at_the_limit_with_few_turned_back_and_in_order(redis):
    limiter, clock, account = gate(redis, per_second=20)
    backlog = [claimed(account, n) for n in range(500)]
    jitter, ends = random.Random(3), iter(range(500))
    began, coming, went, turned_back = clock.us, [], [], 0
    waiting = backlog[:]

    while len(went) < len(backlog):
        room = limiter.room(account, "create_lead", within=ROUND, most=len(coming) + len(waiting))[len(coming) :]
        for wait, each in zip(room, waiting, strict=False):
            heappush(coming, (clock.us + us(wait) + jitter.randint(0, 40_000), next(ends), each))
        waiting = waiting[len(room) :]
        until = clock.us + us(ROUND)
        while coming and coming[0][0] <= until:
            clock.us, place, each = heappop(coming)
            shut = limiter.closed([each])[0]
            turned_back += shut is not None
            if shut:
                heappush(coming, (clock.us + us(shut.wait), place, each))
            else:
                went.append((clock.us, each.fence))
        clock.us = until

    late = [abs(n - number) for n, (_, number) in enumerate(went)]
    assert turned_back <= 50
    assert max(late) <= 20  # those that go in one burst
    assert max(late[20:]) <= 2
    assert (clock.us - began) / SECOND <= 30


def test_without_redis_the_share_of_one_process_is_foreseen(redis):
    limiter, _, account = gate(redis, per_second=20)
    alone = SharedLimiter(None, limiter._rules)

    found = alone.room(account, "create_lead", within=ROUND, most=1000)

    assert 30 <= len(found) <= 50


def test_an_account_without_a_form_is_left_to_its_attempt(redis):
    limiter, _, _ = gate(redis, per_second=1)

    assert limiter.room("fax:default", "send_fax", within=ROUND, most=2) == [timedelta()] * 2
