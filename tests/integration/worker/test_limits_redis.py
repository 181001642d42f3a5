"""The shared limiter on a real Valkey: the same answers as the model, for all workers together, and without Redis."""

import json
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from structlog import wrap_logger
from structlog.testing import LogCapture

from config.spec_sections import Excess, Limits, Window
from delivery.commands import CreateLead
from delivery.ids import new_id
from delivery.limiter import LimitPlan, Refusal, Tuning
from delivery.limiter_local import MemoryLimiter
from delivery.outcomes import Deferred, Receipt, Succeeded, Usage
from delivery.ports import Claimed, Order, Settlement
from sandbox.valkey import ValkeyServer
from worker import limit_fallback
from worker.limit_book import Ask, Book, End
from worker.limits import LimitRules, SharedLimiter

SECOND = 1_000_000
TUNING = Tuning()
EXCESS = Excess(signals=("429",), strategy="slow down", retry_after_cap=timedelta(seconds=90))
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
names = count()


def window(calls, seconds, burst=None):
    return Window(calls=calls, every=timedelta(seconds=seconds), burst=burst)


def limits(**values):
    return Limits(on_excess=EXCESS, **values)


def connect(url):
    return Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0))


def claimed(account, n=0):
    return Claimed(Order(new_id(), account, LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC)), "t", n, {}, 0)


def gate(redis, asked=None, processes=4, recipient="r1", called=(), instant_us=None, **values):
    rules = LimitRules(
        limits={"crm": limits(**values)},
        lease=lambda _: timedelta(seconds=45),
        recipient_key=lambda _: recipient,
        asked=lambda _: asked,
        called=lambda *_: called,
        processes=processes,
    )
    return SharedLimiter(redis, rules, rng=random.Random(7), instant_us=instant_us)


@pytest.fixture
def still():
    """A clock that goes when it is told to: what is asked a moment later is asked at the same instant."""
    return SimpleNamespace(now=1_790_000_000 * SECOND)


def at(clock):
    return {"instant_us": lambda: clock.now}


def refused(delivery, code="rate_limited"):
    return Settlement(delivery, Deferred(code, timedelta(seconds=1), "too many calls"))


def succeeded(delivery):
    return Settlement(delivery, Succeeded(Receipt("lead-1")), duration=timedelta(milliseconds=200))


def most_in(times, span):
    ordered = sorted(times)
    return max((bisect_left(ordered, first + span) - n for n, first in enumerate(ordered)), default=0)


@pytest.fixture
def redis(redis_url):
    client = connect(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def account():
    return f"crm:a{next(names)}"


REFUSALS = {
    "end": Refusal(),
    "slow": Refusal(slows=True),
    "usage": Refusal(slows=True, floor=0.7),
    "freeze": Refusal(slows=True, freeze_us=2 * SECOND),
    "stop_one": Refusal(recipient_us=3 * SECOND),
}

steps = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 12 + ["end", "slow", "usage", "freeze", "stop_one"]),
        st.integers(0, 30),
        st.integers(0, 2),
        st.integers(0, 2 * SECOND),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=80,
)
windows = st.sampled_from(
    [
        {"per_second": 3},
        {"per_second": 5, "per_minute": 12, "concurrent": 4},
        {"other": (window(4, 10, 6),), "per_recipient": (window(2, 3),)},
        {"per_second": 4, "other": (window(9, 5),), "per_recipient": (window(1, 2, 3),)},
        {"concurrent": 2},
    ]
)


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, values=windows)
def test_the_script_and_the_model_give_the_same_answers(redis, steps, values):
    name = f"crm:m{next(names)}"
    own = LimitPlan.of(limits(**values), TUNING)
    clock = SimpleNamespace(now=1_790_000_000 * SECOND)
    book, model = Book(redis, TUNING, lambda: clock.now), MemoryLimiter(own, TUNING)
    _, gap = book.ask([Ask("first", name, "r0", SECOND)], own, owed=0, pause_us=0)
    book.remember(name, gap, own, [])
    sides = SimpleNamespace(book=book, model=model, plan=own, account=name, clock=clock)

    pairs = [_both(step, sides) for step in steps]

    assert [each for each, _ in pairs] == [each for _, each in pairs]


def _both(step, sides):
    action, delivery, person, passed, many = step
    sides.clock.now += passed
    now, to = sides.clock.now, f"r{person}"
    if action == "ask":
        calls = [(str(delivery + n), f"r{(person + n) % 3}") for n in range(many)]
        asks = [Ask(each, sides.account, whom, 20 * SECOND) for each, whom in calls]
        shared, _ = sides.book.ask(asks, sides.plan, owed=0, pause_us=0)
        return shared, [sides.model.ask(each, whom, lease_us=20 * SECOND, now=now) for each, whom in calls]
    sides.book.end(End(str(delivery), sides.account, to, 300_000), sides.plan, REFUSALS[action])
    sides.model.release(str(delivery), 300_000)
    sides.model.refused(to, REFUSALS[action], now)
    return sides.book.status(sides.account, sides.plan).share, sides.model.status(sides.account, now).share


def test_four_threads_stay_within_every_window_and_use_it(redis, account):
    limiter = gate(redis, per_second=40, per_day=100000, other=(window(90, 3),))
    went, end = [], time.monotonic() + 4

    def work():
        while time.monotonic() < end:
            delivery = claimed(account)
            while (shut := limiter.closed([delivery])[0]) is not None and time.monotonic() < end:
                time.sleep(min(shut.wait.total_seconds(), 1))
            if shut is None:
                went.append(delivery)

    _together([threading.Thread(target=work) for _ in range(4)])
    let_go = calls_of(redis, account)

    assert len(let_go) == len(went)
    assert most_in(let_go, SECOND) <= 40
    assert most_in(let_go, 3 * SECOND) <= 90
    assert len(let_go) > 90, "no more than one window of three seconds was used"


def calls_of(redis, account):
    """Return when calls were let go, by the limiter's own clock: what a thread notes comes when it has its turn."""
    return [int(each) for each in redis.lrange(f"entrega:limit:{{{account}}}:calls", 0, -1)]


def _together(threads):
    for each in threads:
        each.start()
    for each in threads:
        each.join()


FOUR_PROCESSES = """
import json, sys, time
from multiprocessing import get_context
sys.path[:0] = {paths!r}
from test_limits_redis import claimed, connect, gate

def work(_):
    limiter, went, end = gate(connect({url!r}), per_second=30, per_day=100000), [], time.monotonic() + 3
    while time.monotonic() < end:
        delivery = claimed({account!r})
        while (shut := limiter.closed([delivery])[0]) is not None:
            time.sleep(min(shut.wait.total_seconds(), 1))
        went.append(time.monotonic())
    return went

with get_context("fork").Pool(4) as pool:
    print(json.dumps(sum(pool.map(work, range(4), chunksize=1), [])))
"""


def test_four_processes_together_stay_within_the_window(redis_url, redis, account, pytestconfig):
    root = pytestconfig.rootpath
    paths = [str(root), str(root / "tests" / "integration" / "worker")]
    program = FOUR_PROCESSES.format(paths=paths, url=redis_url, account=account)

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=240)
    let_go = calls_of(redis, account)

    assert len(let_go) == len(json.loads(ran.stdout))
    assert most_in(let_go, SECOND) <= 30
    assert len(let_go) > 60, "no more than two windows of a second were used in three"


def test_a_deferred_delivery_goes_at_the_wait_it_was_told(redis, account):
    limiter = gate(redis, other=(window(1, 2),))
    first, second = claimed(account), claimed(account)

    went, shut = limiter.closed([first])[0], limiter.closed([second])[0]
    time.sleep(shut.wait.total_seconds())

    assert went is None
    assert (shut.code, shut.burned, shut.parked) == ("limited", False, False)
    assert shut.reason == "the limit of 1 in 2 s for the account is used up"
    assert limiter.closed([second])[0] is None


def test_beyond_the_horizon_nothing_is_reserved_and_the_crowd_is_spread(redis, account):
    limiter = gate(redis, per_hour=1)
    limiter.closed([claimed(account)])

    waits = {limiter.closed([claimed(account)])[0].wait for _ in range(20)}

    assert len(waits) == 20
    assert min(waits) >= TUNING.horizon
    assert redis.exists(f"entrega:limit:{{{account}}}:queue") == 0


def test_every_key_expires_and_none_names_a_person(redis, account):
    limiter = gate(
        redis,
        timedelta(seconds=3),
        per_second=1,
        concurrent=9,
        per_recipient=(window(1, 6, 1),),
        other=(window(2, 9, 2),),
    )
    deliveries = [claimed(account) for _ in range(4)]
    for each in deliveries:
        limiter.closed([each])
    limiter.ended([refused(deliveries[1])])
    limiter.ended([refused(deliveries[1], "pair_limited")])

    keys = redis.keys("*")

    assert len(keys) >= 5
    assert [redis.pttl(each) for each in keys if redis.pttl(each) <= 0] == []
    assert all(each.startswith(f"entrega:limit:{{{account}}}:".encode()) for each in keys)


def test_a_refusal_cuts_the_share_and_retry_after_stops_the_account(redis, account):
    limiter = gate(redis, timedelta(hours=9), per_second=80)
    delivery = claimed(account)
    limiter.closed([delivery])

    limiter.ended([refused(delivery)])
    status = limiter.status(account)

    assert status.share == pytest.approx(0.95, abs=0.01)
    assert timedelta(seconds=88) < status.frozen_for <= timedelta(seconds=90)
    assert limiter.closed([claimed(account)])[0].reason.startswith("the whole account waits: the provider")


def used(delivery, usage):
    return replace(succeeded(delivery), usage=usage)


def test_a_word_that_few_calls_are_left_slows_the_account_to_what_is_left_and_no_further(redis, account, still):
    limiter = gate(redis, per_second=80, **at(still))
    delivery = claimed(account)
    limiter.closed([delivery])

    shares = []
    for _ in range(4):  # further apart than one event
        limiter.ended([used(delivery, Usage(room=0.75))])
        shares.append(limiter.status(account).share)
        still.now += SECOND + SECOND // 20

    assert shares[0] == pytest.approx(0.95, abs=0.01)
    assert shares[1:] == [pytest.approx(0.75, abs=0.01)] * 3


def test_a_share_that_was_cut_deeper_is_not_raised_by_a_milder_word(redis, account, still):
    limiter = gate(redis, per_second=80, **at(still))
    delivery = claimed(account)
    limiter.closed([delivery])
    redis.hset(f"entrega:limit:{{{account}}}:state", mapping={"share": 0.1, "at": still.now, "cut": 0})

    limiter.ended([used(delivery, Usage(room=0.75))])

    assert limiter.status(account).share == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("wait", "frozen_s"), [(timedelta(seconds=40), 40), (timedelta(days=400), 90)])
def test_a_limit_that_is_used_up_stops_the_account_until_it_begins_anew_clamped(redis, account, wait, frozen_s):
    limiter = gate(redis, per_second=80)
    delivery = claimed(account)
    limiter.closed([delivery])

    limiter.ended([used(delivery, Usage(room=0.0, wait=wait))])

    assert timedelta(seconds=frozen_s - 2) < limiter.status(account).frozen_for <= timedelta(seconds=frozen_s)


@pytest.mark.parametrize("usage", [None, Usage(), Usage(unreadable=True)])
def test_a_word_that_asks_for_nothing_changes_nothing(redis, account, usage):
    limiter = gate(redis, per_second=80)
    delivery = claimed(account)
    limiter.closed([delivery])

    limiter.ended([used(delivery, usage)])

    assert limiter.status(account).share == 1


def test_a_pair_refusal_stops_that_recipient_only(redis, account, still):
    limiter = gate(redis, per_recipient=(window(1, 6, 45),), **at(still))
    delivery = claimed(account)
    limiter.closed([delivery])

    limiter.ended([refused(delivery, "pair_limited")])

    assert limiter.closed([claimed(account)])[0].wait >= timedelta(seconds=5.9)
    other = gate(redis, recipient="r2", per_recipient=(window(1, 6, 45),), **at(still))
    assert other.closed([claimed(account)])[0] is None
    assert limiter.status(account).share == 1


def test_the_status_counts_calls_reservations_and_places_in_flight(redis, account, still):
    limiter = gate(redis, per_second=2, per_day=100, concurrent=3, **at(still))
    deliveries = [claimed(account) for _ in range(4)]
    for each in deliveries:
        limiter.closed([each])

    limiter.ended([succeeded(deliveries[0])])
    status = limiter.status(account)

    assert [(each.window, each.used, each.allowed) for each in status.windows] == [
        ("2 in 1 s", 2, 2),
        ("100 in 86400 s", 2, 100),
    ]
    assert (status.in_flight, status.waiting, status.shared) == (1, 2, True)
    assert status.rate == 2


def test_the_status_tells_the_slot_that_the_next_delivery_gets(redis, account, still):
    limiter = gate(redis, per_second=2, per_recipient=(window(1, 6, 45),), **at(still))
    for _ in range(5):
        limiter.closed([claimed(account)])

    told = limiter.status(account)
    given = limiter.closed([claimed(account)])[0].wait

    assert told.next_free.total_seconds() == pytest.approx(given.total_seconds(), abs=0.2)
    assert told.recipient == ("1 in 6 s with a burst of 45",)


def test_a_quiet_account_has_a_free_slot_now(redis, account):
    assert gate(redis, per_second=2).status(account).next_free == timedelta(0)


def test_the_status_tells_the_rate_of_a_slowed_account(redis, account, still):
    limiter = gate(redis, per_second=80, **at(still))
    delivery = claimed(account)
    limiter.closed([delivery])

    limiter.ended([refused(delivery)])

    assert limiter.status(account).rate == pytest.approx(76, abs=1)


def test_a_wiped_script_cache_and_wiped_data_are_no_error(redis, account):
    limiter = gate(redis, per_second=5)
    limiter.closed([claimed(account)])

    redis.script_flush()
    redis.flushall()

    assert limiter.closed([claimed(account)])[0] is None


def test_without_redis_a_stated_share_holds_and_redis_takes_over_again(tmp_path, monkeypatch):
    logs = LogCapture()  # not `capture_logs`: what an earlier test logged through is kept, whatever is configured since
    monkeypatch.setattr(limit_fallback, "_log", wrap_logger(None, processors=[logs]))
    server = ValkeyServer(tmp_path)
    client = connect(server.start())
    limiter = gate(client, per_second=20, processes=4)
    try:
        before = limiter.closed([claimed("crm:x")])[0]
        server.kill()
        alone = _count(limiter, 8)
        away = limiter.status("crm:x").shared
        server.start()
        _count(limiter, 6)
        back = limiter.status("crm:x")
    finally:
        client.close()
        server.stop()

    assert before is None
    assert 5 <= alone <= 16
    assert away is False
    assert back.shared is True
    assert [each["event"] for each in logs.entries] == ["limiter_local", "limiter_shared"]


def _count(limiter, seconds):
    end, went = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        delivery = claimed("crm:x")
        while (shut := limiter.closed([delivery])[0]) is not None and time.monotonic() < end:
            time.sleep(min(shut.wait.total_seconds(), 0.2))
        went += shut is None
    return went


def test_what_was_sent_alone_is_counted_when_redis_is_back(redis, account):
    limiter = gate(redis, per_second=20, per_day=50)
    limiter.closed([claimed(account)])
    limiter._local.owe(account, 30)

    limiter.closed([claimed(account)])

    assert limiter.status(account).windows[1].used == 31


def test_a_set_gets_the_slots_its_calls_would_get_one_after_another(redis, account):
    limiter = gate(redis, other=(window(4, 10, 4),))
    deliveries = [claimed(account, n) for n in range(7)]

    answers = limiter.closed(deliveries)

    assert [shut is None for shut in answers] == [True] * 4 + [False] * 3
    waits = [shut.wait.total_seconds() for shut in answers[4:]]
    assert waits == sorted(waits)
    assert all(later - earlier > 2 for earlier, later in pairwise(waits))


def test_a_set_frees_all_its_places(redis, account):
    limiter = gate(redis, concurrent=3)
    deliveries = [claimed(account, n) for n in range(5)]
    answers = limiter.closed(deliveries)

    limiter.ended([succeeded(each) for each, shut in zip(deliveries, answers, strict=True) if shut is None])

    assert [shut is None for shut in answers] == [True] * 3 + [False] * 2
    assert limiter.status(account).in_flight == 0


def test_where_nothing_binds_a_set_is_one_question_and_a_frozen_account_stops_all_of_it(redis, account):
    limiter = gate(redis, timedelta(seconds=30))
    limiter.closed([claimed(account)])
    before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]

    went = limiter.closed([claimed(account, n) for n in range(50)])
    asked = redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    limiter.ended([refused(claimed(account))])
    shut = limiter.closed([claimed(account, n) for n in range(3)])

    assert (went, asked <= 1) == ([None] * 50, True)
    assert [each.code for each in shut] == ["limited"] * 3


def test_where_nothing_binds_a_stop_that_another_worker_met_is_known_a_moment_later(redis, account):
    here, there = gate(redis, timedelta(seconds=30)), gate(redis, timedelta(seconds=30))
    went = here.closed([claimed(account)])

    there.ended([refused(claimed(account))])
    time.sleep(0.1)

    assert (went, here.closed([claimed(account)])[0].code) == ([None], "limited")


def test_a_set_whose_script_the_server_forgot_is_counted_once(redis, account):
    limiter = gate(redis, other=(window(8, 10, 8),))
    asked = limiter._book.ask

    def ask(*args, **options):
        found = asked(*args, **options)
        redis.script_flush()
        return found

    limiter._book.ask = ask

    went = limiter.closed([claimed(account, n) for n in range(6)])
    limiter._book.ask = asked
    more = limiter.closed([claimed(account, n) for n in range(6)])

    assert went == [None] * 6
    assert [shut is None for shut in more] == [True] * 2 + [False] * 4
