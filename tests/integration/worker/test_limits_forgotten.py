"""The shared limiter on a Redis that forgot: nothing goes before the ledger said what was called."""

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.spec_sections import Excess, Limits, Window
from delivery.commands import CreateLead
from delivery.errors import LedgerUnavailable
from delivery.ids import new_id
from delivery.limiter import PastCall
from delivery.ports import Claimed, Order
from sandbox.valkey import ValkeyServer
from worker.limit_book import Gap
from worker.limits import LimitRules, SharedLimiter

SECOND = 1_000_000
EXCESS = Excess(signals=("429",), strategy="slow down", retry_after_cap=timedelta(seconds=90))
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
names = count()


@dataclass
class Ground:
    """A limiter with a clock and a ledger of the test's own."""

    redis: Redis
    account: str
    now: int = 1_790_000_000 * SECOND
    calls: list[PastCall] = field(default_factory=list)
    questions: list[tuple[str, timedelta, int]] = field(default_factory=list)
    away: bool = False

    def called(self, *question):
        self.questions.append(question)
        if self.away:
            raise LedgerUnavailable("away")
        return self.calls

    def limiter(self, recipient="r1", **limits):
        rules = LimitRules(
            limits={"crm": Limits(on_excess=EXCESS, **limits)},
            lease=lambda _: timedelta(seconds=45),
            recipient_key=lambda _: recipient,
            asked=lambda _: None,
            called=self.called,
            processes=4,
        )
        return SharedLimiter(self.redis, rules, rng=random.Random(7), instant_us=lambda: self.now)

    def claimed(self):
        return Claimed(Order(new_id(), self.account, LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC)), "t", 0, {}, 0)


def connect(url):
    return Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


def ended(ago_s, n=0):
    return PastCall(f"past-{n}", int(ago_s * SECOND), int(ago_s * SECOND))


def window(calls, seconds, burst=None):
    return Window(calls=calls, every=timedelta(seconds=seconds), burst=burst)


@pytest.fixture
def ground(redis_url):
    client = connect(redis_url)
    client.flushall()
    yield Ground(client, f"crm:f{next(names)}")
    client.close()


def test_a_wiped_redis_counts_again_what_the_ledger_knows(ground):
    limiter = ground.limiter(per_minute=5, per_day=40)
    limiter.closed([ground.claimed()])
    ground.redis.flushall()
    ground.calls = [*(ended(30, n) for n in range(4)), *(ended(7200, n) for n in range(30))]

    turns = [limiter.closed([ground.claimed()])[0] for _ in range(2)]

    assert [each and each.reason for each in turns] == [None, "the limit of 5 in 60 s for the account is used up"]
    assert turns[1].wait == pytest.approx(timedelta(seconds=30), abs=timedelta(seconds=3))
    assert [each.used for each in limiter.status(ground.account).windows] == [5, 35]


def test_the_ledger_is_asked_once_for_as_far_back_as_a_call_matters(ground):
    limiter = ground.limiter(per_second=5, per_day=40, per_recipient=(window(1, 6, 45),))

    for _ in range(3):
        limiter.closed([ground.claimed()])

    assert [(name, most) for name, _, most in ground.questions] == [(ground.account, 40)]
    assert ground.questions[0][1] >= timedelta(days=1)


def test_a_call_under_way_counts_as_leaving_now_and_keeps_its_place(ground):
    ground.calls = [PastCall("flying", 500_000, None, 9 * SECOND)]
    limiter = ground.limiter(per_minute=2, concurrent=1)

    shut = limiter.closed([ground.claimed()])[0]
    ground.now += 9 * SECOND
    after_its_lease = limiter.closed([ground.claimed()])[0]
    third = limiter.closed([ground.claimed()])[0]

    assert shut.reason == "1 calls are in flight, and no more are allowed at once"
    assert after_its_lease is None
    assert timedelta(seconds=51) <= third.wait <= timedelta(seconds=53)


def test_with_calls_a_moment_ago_everybody_waits_until_no_process_is_alone(ground):
    ground.calls = [ended(2)]
    limiter = ground.limiter(per_second=5)

    at_once = limiter.closed([ground.claimed()])[0]
    ground.now += 4 * SECOND
    later = limiter.closed([ground.claimed()])[0]

    assert (at_once.reason, at_once.wait, at_once.burned) == (
        "Redis lost what was called lately, and the ledger is being asked",
        timedelta(seconds=1),
        False,
    )
    assert later is None


def test_while_the_ledger_is_away_too_nothing_goes(ground):
    limiter, ground.away = ground.limiter(per_second=5), True

    shut = limiter.closed([ground.claimed()])[0]
    ground.now, ground.away = ground.now + SECOND, False

    assert shut.code == "limited"
    assert limiter.closed([ground.claimed()])[0] is None


def test_one_asker_at_a_time_asks_the_ledger(ground):
    ground.away = True
    limiter = ground.limiter(per_second=5)

    shut = [limiter.closed([ground.claimed()])[0] for _ in range(5)]

    assert len(ground.questions) == 1
    assert None not in shut


def test_a_recipient_is_taken_as_used_up_at_the_last_known_call(ground):
    ground.calls = [ended(20)]
    limiter = ground.limiter(per_recipient=(window(1, 6, 9),))
    other_limiter = ground.limiter("r2", per_recipient=(window(1, 30),))

    went = [limiter.closed([ground.claimed()])[0] for _ in range(4)]
    strict = other_limiter.closed([ground.claimed()])[0]

    assert [each is None for each in went] == [True, True, True, False]
    assert timedelta(seconds=10) <= strict.wait <= timedelta(seconds=11)


def test_a_quiet_account_owes_its_recipients_no_wait(ground):
    limiter = ground.limiter(per_recipient=(window(1, 6, 9),))

    went = [limiter.closed([ground.claimed()])[0] for _ in range(9)]

    assert went == [None] * 9


def test_a_gap_that_another_one_followed_is_not_closed_with_old_knowledge(ground):
    limiter = ground.limiter(per_second=5)
    ground.away = True
    limiter.closed([ground.claimed()])
    run, _, since = ground.redis.hget(f"entrega:limit:{{{ground.account}}}:state", "gap").decode().partition(":")
    plan = limiter._plans["crm"]

    closed = [
        limiter._book.remember(ground.account, Gap(name, 0, closes=True), plan, [])
        for name in (f"{run}:{int(since) - 1}", f"{'0' * 40}:{since}", f"{run}:{since}", f"{run}:{since}")
    ]

    assert closed == [False, False, True, False]


def test_a_server_that_restarted_is_not_believed_whatever_it_kept(tmp_path):
    server = ValkeyServer(tmp_path)
    ground = Ground(connect(server.start()), "crm:x")
    limiter = ground.limiter(per_second=5, per_day=40)
    try:
        limiter.closed([ground.claimed()])
        server.restart()
        ground.calls, ground.now = [ended(3600, n) for n in range(39)], ground.now + SECOND
        went = [limiter.closed([ground.claimed()])[0] for _ in range(2)]
    finally:
        ground.redis.close()
        server.stop()

    assert went[0] is None
    assert went[1].reason == "the limit of 40 in 86400 s for the account is used up"
    assert len(ground.questions) == 2


def test_a_process_that_was_alone_stops_the_account_until_the_others_are_back(ground):
    limiter, other = ground.limiter(per_second=5), ground.limiter(per_second=5)
    limiter.closed([ground.claimed()])
    limiter._local.redis_failed(TimeoutError())
    limiter._local._ask_again_at = limiter._local._away_since = 0.0

    first, second = ground.claimed(), ground.claimed()
    back, elsewhere = limiter.closed([first])[0], other.closed([second])[0]
    ground.now += 5 * SECOND

    assert back.wait >= timedelta(seconds=4)
    assert elsewhere.wait >= timedelta(seconds=4)
    assert other.closed([second])[0] is None


def test_deferred_deliveries_of_two_workers_go_when_their_slots_come_and_in_order(ground):
    limiters = [ground.limiter(per_second=4), ground.limiter(per_second=4)]
    deliveries = [ground.claimed() for _ in range(12)]
    shut = [limiters[n % 2].closed([each])[0] for n, each in enumerate(deliveries)]
    slots = sorted((each.wait, n) for n, each in enumerate(shut) if each)
    start = ground.now

    went = [_at(ground, start, wait, limiters[(n + 1) % 2], deliveries[n]) for wait, n in slots]

    assert [n for _, n in slots] == list(range(4, 12))
    assert went == [None] * 8


def _at(ground, start, wait, limiter, delivery):
    ground.now = start + wait // timedelta(microseconds=1)
    return limiter.closed([delivery])[0]


def test_the_place_of_a_killed_worker_is_free_again_when_its_lease_ends(ground):
    limiter, other = ground.limiter(concurrent=1), ground.limiter(concurrent=1)
    second = ground.claimed()
    limiter.closed([ground.claimed()])

    while_it_may_live = other.closed([second])[0]
    ground.now += 45 * SECOND
    after_its_lease = other.closed([second])[0]

    assert while_it_may_live.reason == "1 calls are in flight, and no more are allowed at once"
    assert after_its_lease is None
