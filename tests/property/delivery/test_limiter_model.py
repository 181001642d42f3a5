"""Properties of the limiter in memory, against the plain definition of a window and with a clock of our own."""

from bisect import bisect_left
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.spec_sections import Excess, Limits, Window
from delivery.limiter import LimitPlan, Refusal, Span, Tuning
from delivery.limiter_local import MemoryLimiter

SECOND = 1_000_000
EPOCH = 1_790_000_000 * SECOND
LEASE = 45 * SECOND
TUNING = Tuning()
EXCESS = Excess(signals=("429",), strategy="slow down", retry_after_cap=timedelta(hours=6))


def plan(**limits):
    return LimitPlan.of(Limits(on_excess=EXCESS, **limits), TUNING)


def window(calls, seconds, burst=None):
    return Window(calls=calls, every=timedelta(seconds=seconds), burst=burst)


def ask(limiter, name, at, to="r1"):
    return limiter.ask(str(name), to, lease_us=LEASE, now=EPOCH + at)


def carry_out(limiter, starts, *, late=(0,), to=("r1",), lost=()):
    """Let deliveries arrive at `starts`, come back when told (and a little late), and return when each call went."""
    due = sorted((start, name) for name, start in enumerate(starts))
    gone = {}
    for step in range(40 * len(starts)):
        if not due:
            break
        now, name = due.pop(0)
        turn = ask(limiter, name, now, to[name % len(to)])
        if turn.wait_us is None:
            gone[name] = now
        elif name not in lost:
            due.append((now + turn.wait_us + late[step % len(late)], name))
            due.sort()
    return gone


def most_in(times, span):
    ordered = sorted(times)
    return max((bisect_left(ordered, first + span) - n for n, first in enumerate(ordered)), default=0)


def fits_bucket(times, burst, step):
    full_at = 0
    for each in sorted(times):
        full_at = max(full_at, each) + step
        if full_at - each > burst * step:
            return False
    return True


arrivals = st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=60)
delays = st.lists(st.integers(0, SECOND), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(starts=arrivals, late=delays, calls=st.integers(1, 9), other=st.integers(1, 20))
def test_no_span_ever_holds_more_calls_than_its_window_allows(starts, late, calls, other):
    limiter = MemoryLimiter(plan(per_second=calls, other=(window(other, 3),)), TUNING)

    gone = carry_out(limiter, starts, late=late)

    assert most_in(gone.values(), SECOND) <= calls
    assert most_in(gone.values(), 3 * SECOND) <= other


@settings(deadline=None, max_examples=50)
@given(starts=arrivals, late=delays, burst=st.integers(1, 9))
def test_a_bucket_is_never_overdrawn(starts, late, burst):
    limiter = MemoryLimiter(plan(per_recipient=(window(1, 2, burst),)), TUNING)

    gone = carry_out(limiter, starts, late=late, to=("r1",))

    assert fits_bucket(gone.values(), burst, 2 * SECOND)


@settings(deadline=None, max_examples=50)
@given(starts=arrivals, calls=st.integers(1, 9))
def test_who_comes_back_on_time_goes_at_its_slot_and_in_order(starts, calls):
    limiter = MemoryLimiter(plan(per_second=calls), TUNING)

    gone = carry_out(limiter, sorted(starts))

    assert len(gone) == len(starts)
    assert [gone[name] for name in range(len(starts))] == sorted(gone.values())


@settings(deadline=None, max_examples=10)
@given(late=st.lists(st.integers(0, 6_000), min_size=1, max_size=7))
def test_a_crowd_that_is_a_little_late_uses_nearly_all_calls(late):
    limiter = MemoryLimiter(plan(per_second=80), TUNING)

    gone = carry_out(limiter, [0] * 240, late=late)

    assert max(gone.values()) <= 3_100_000


@settings(deadline=None, max_examples=40)
@given(starts=arrivals, lost=st.sets(st.integers(0, 59)))
def test_lost_deliveries_never_stop_the_others(starts, lost):
    limiter = MemoryLimiter(plan(per_second=5), TUNING)

    gone = carry_out(limiter, starts, lost=lost)

    assert set(range(len(starts))) - lost <= set(gone)
    assert most_in(gone.values(), SECOND) <= 5


@settings(deadline=None, max_examples=40)
@given(refusals=st.lists(st.integers(0, 20 * SECOND), max_size=30))
def test_the_rate_stays_between_the_floor_and_the_spec_and_recovers(refusals):
    limiter = MemoryLimiter(plan(per_second=80), TUNING)

    for at in sorted(refusals):
        limiter.refused("r1", Refusal(slows=True), EPOCH + at)
    shares = [limiter.status("a", EPOCH + 20 * SECOND + wait).share for wait in range(0, 21 * SECOND, SECOND)]

    assert TUNING.least <= shares[0] <= 1
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_third_refusal_in_a_row_halves_the_pace_of_those_who_wait_already():
    limiter = MemoryLimiter(plan(per_second=10), Tuning(growth=0.000001))
    carry_out(limiter, [0] * 10)
    limiter.refused("r1", Refusal(slows=True), EPOCH + 1)
    limiter.refused("r1", Refusal(slows=True), EPOCH + 2 * SECOND)
    limiter.refused("r1", Refusal(slows=True), EPOCH + 3 * SECOND)

    gone = carry_out(limiter, [SECOND * 3] * 30)

    assert most_in(gone.values(), SECOND) <= 5


def test_refusals_of_calls_in_flight_together_count_once():
    limiter = MemoryLimiter(plan(per_second=10), TUNING)

    for at in range(0, 900_000, 100_000):
        limiter.refused("r1", Refusal(slows=True), EPOCH + at)

    assert limiter.status("a", EPOCH + 800_000).share == pytest.approx(0.95, abs=0.045)


def test_a_frozen_account_keeps_the_order_of_those_who_wait():
    limiter = MemoryLimiter(plan(per_second=10), TUNING)
    waits = {name: ask(limiter, name, 0).wait_us or 0 for name in range(30)}
    limiter.refused("r1", Refusal(slows=True, freeze_us=30 * SECOND), EPOCH + 1)

    again = {name: ask(limiter, name, wait) for name, wait in waits.items() if wait}
    instants = [waits[name] + turn.wait_us for name, turn in again.items()]

    assert min(instants) >= 30 * SECOND
    assert instants == sorted(instants)


def test_a_frozen_recipient_leaves_the_others_alone():
    limiter = MemoryLimiter(plan(per_second=10, per_recipient=(window(5, 1),)), TUNING)
    limiter.refused("r1", Refusal(recipient_us=6 * SECOND), EPOCH)

    waits = {to: ask(limiter, to, 1, to).wait_us for to in ("r1", "r2")}

    assert waits == {"r1": 6 * SECOND - 1, "r2": None}


def test_who_waits_for_a_recipient_holds_up_nobody_else():
    limiter = MemoryLimiter(plan(per_second=2, per_recipient=(window(1, 60),)), TUNING)
    crowd = [ask(limiter, name, 0, "r1").wait_us for name in range(5)]

    other = ask(limiter, "other", 0, "r2").wait_us

    assert crowd[0] is None
    assert min(crowd[1:]) >= 60 * SECOND
    assert other is None


def test_an_account_without_limits_lets_everything_go():
    limiter = MemoryLimiter(plan(), TUNING)

    assert carry_out(limiter, [0] * 50) == dict.fromkeys(range(50), 0)


def test_no_slot_is_reserved_beyond_the_horizon():
    limiter = MemoryLimiter(plan(per_second=1), TUNING)

    turns = [ask(limiter, name, 0) for name in range(1000)]

    assert sum(each.reserved for each in turns) == limiter.status("a", EPOCH).waiting
    assert 290 <= limiter.status("a", EPOCH).waiting <= 300
    assert all(each.wait_us > 300 * SECOND for each in turns[1:] if not each.reserved)


def test_a_place_in_flight_comes_back_when_a_call_ends_and_when_nobody_says_so():
    limiter = MemoryLimiter(plan(concurrent=2), TUNING)
    first = [ask(limiter, name, 0).wait_us for name in range(2)]

    third = ask(limiter, 2, 1)
    limiter.release("0", 200_000)
    later = ask(limiter, 2, third.wait_us + 1).wait_us
    after_the_lease = ask(limiter, 3, LEASE + 1).wait_us

    assert first == [None, None]
    assert third.cause == "concurrent"
    assert (later, after_the_lease) == (None, None)


@settings(deadline=None, max_examples=10)
@given(processes=st.integers(1, 9), calls=st.integers(9, 100))
def test_the_shares_of_all_processes_stay_within_the_window(processes, calls):
    clock = count(0, 5_000)
    whole = plan(per_second=calls)
    limiters = [MemoryLimiter(whole.share(processes), TUNING) for _ in range(processes)]

    gone = [
        now
        for now in (next(clock) for _ in range(600))
        for limiter in limiters
        if ask(limiter, f"d{now}", now).wait_us is None
    ]

    assert most_in(gone, SECOND) <= calls


def test_a_share_smaller_than_one_call_comes_round_more_rarely():
    assert plan(per_minute=2).share(4).account == (Span(1, 120 * SECOND, 0),)


@pytest.mark.parametrize(
    ("limits", "asked", "sentence"),
    [
        ({"per_second": 1}, 2, "the limit of 1 in 1 s for the account is used up"),
        (
            {"per_recipient": (window(1, 6, 1),)},
            2,
            "the limit of 1 in 6 s with a burst of 1 for the recipient is used up",
        ),
        ({"concurrent": 1}, 2, "1 calls are in flight, and no more are allowed at once"),
    ],
)
def test_the_reason_names_the_limit(limits, asked, sentence):
    own = plan(**limits)
    limiter = MemoryLimiter(own, TUNING)

    turns = [ask(limiter, name, 0) for name in range(asked)]

    assert turns[-1].why(own) == sentence


def test_a_delivery_that_asks_too_early_keeps_its_slot():
    limiter = MemoryLimiter(plan(per_second=1), TUNING)
    ask(limiter, "first", 0)
    slot = ask(limiter, "second", 0).wait_us

    early = ask(limiter, "second", 400_000)

    assert early.wait_us + 400_000 == slot
    assert early.why(plan()) == "its reserved slot has not come"
