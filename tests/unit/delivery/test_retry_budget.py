from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from config.policy import RetryBudget
from delivery.retry_budget import fresh, spend

RULES = RetryBudget(share=0.2, per_minute=60, most=100)


def run(calls, rules=RULES, start=None):
    """Play (seconds since the last call, is it a retry) and return what had to wait."""
    now, purse, waits = 0.0, start or fresh(rules, 0.0), []
    for gap, is_retry in calls:
        now += gap
        purse, _, wait = spend(purse, rules, firsts=int(not is_retry), retries=int(is_retry), now_s=now)
        waits.append(wait)
    return waits


def test_a_first_attempt_never_waits():
    assert set(run([(0, False)] * 500)) == {timedelta()}


def test_a_quiet_account_has_a_minutes_allowance():
    waits = run([(0, True)] * 61)

    assert waits[:60] == [timedelta()] * 60
    assert waits[60] == timedelta(seconds=1)


def test_five_first_attempts_earn_one_retry():
    spent = run([(0, True)] * 60 + [(0, False)] * 5 + [(0, True), (0, True)])

    assert spent[-2:] == [timedelta(), timedelta(seconds=1)]


def test_a_retry_that_waits_as_told_may_go():
    assert run([(0, True)] * 61 + [(1, True)])[-1] == timedelta()


def test_savings_have_an_end():
    waits = run([(0, False)] * 10_000 + [(0, True)] * 101)

    assert waits[-2:] == [timedelta(), timedelta(seconds=1)]


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=200))
def test_retries_never_pass_the_share_and_the_allowance(calls):
    waits = run(calls)

    first = sum(not is_retry for _, is_retry in calls)
    retried = sum(is_retry and not wait for (_, is_retry), wait in zip(calls, waits, strict=True))
    seconds = sum(gap for gap, _ in calls)
    assert retried <= RULES.per_minute + first * RULES.share + seconds * RULES.per_minute / 60 + 1e-6


def test_a_clock_that_steps_back_takes_nothing_away():
    purse, _, _ = spend(fresh(RULES, 100.0), RULES, firsts=0, retries=1, now_s=50.0)

    assert purse.saved == 59


@given(st.integers(0, 30), st.integers(0, 90), st.floats(0, 30))
def test_a_set_gets_what_its_calls_would_get_one_after_another(firsts, retries, gap):
    purse, granted, wait = spend(fresh(RULES, 0.0), RULES, firsts=firsts, retries=retries, now_s=gap)

    one_by_one = run([(gap if n == 0 else 0, n >= firsts) for n in range(firsts + retries)])
    assert granted == sum(not each for each in one_by_one[firsts:])
    assert wait == (one_by_one[-1] if retries else timedelta())
    assert purse.saved >= 0
