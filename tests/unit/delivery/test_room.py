from datetime import timedelta

import pytest

from config.policy import load_specs
from delivery.breaker import Forced, Rules, View, room
from delivery.engine import Engine
from delivery.forecast import Filling, Standing, forecast
from delivery.limiter import Span

ROUND = timedelta(seconds=5)
S = 1_000_000
AT_ONCE = timedelta()
TWENTY_A_SECOND = Span(20, S, 0)


def seconds(*waits):
    return [timedelta(seconds=each) for each in waits]


def breaker(state, mode="auto", age=None, next_trial=None, trials_out=0, won=0, lost=0):
    forced = None if mode == "auto" else Forced("ana", "maintenance", AT_ONCE)
    age, next_trial = (each and timedelta(seconds=each) for each in (age, next_trial))
    return View(state, mode, 0, 0, age, next_trial, trials_out, won, lost, forced)


@pytest.mark.parametrize(
    ("label", "view", "expected"),
    [
        ("it never opened", breaker("closed"), 1000),
        ("open for longer than a round", breaker("open", next_trial=20), 0),
        ("held open by a person", breaker("open", "open", next_trial=1), 0),
        ("held closed by a person", breaker("closed", "closed", age=1), 1000),
        ("half-open", breaker("half-open"), 3),
        ("half-open, one trial under way and one won", breaker("half-open", trials_out=1, won=1), 1),
        ("half-open, all trials out", breaker("half-open", trials_out=3), 0),
        ("closed a moment ago", breaker("closed", age=1), 12),
        ("closed one round ago", breaker("closed", age=6), 24),
        ("closed six rounds ago", breaker("closed", age=31), 768),
        ("closed a minute ago", breaker("closed", age=60), 1000),
    ],
)
def test_a_breaker_lets_trials_go_and_then_more_and_more(label, view, expected):
    rules = Rules.of(load_specs()["crm"].breaker, timedelta(seconds=45))

    found = room(view, rules, within=ROUND, most=1000)

    assert found == [AT_ONCE] * expected


def test_trials_wait_for_the_end_of_the_open_time():
    rules = Rules.of(load_specs()["crm"].breaker, timedelta(seconds=45))

    found = room(breaker("open", next_trial=2), rules, within=ROUND, most=1000)

    assert found == seconds(2.1, 2.1, 2.1)


def test_without_limits_all_may_go_at_once():
    assert forecast(Standing(0, []), within=ROUND, most=3) == [AT_ONCE] * 3


def test_what_is_free_goes_at_once_and_the_rest_evenly():
    found = forecast(Standing(0, [Filling(TWENTY_A_SECOND)]), within=timedelta(seconds=1.5), most=100)

    assert found[:20] == [AT_ONCE] * 20
    assert found[20:] == seconds(1.1, 1.155, 1.21, 1.265, 1.32, 1.375, 1.43, 1.485)


def test_room_comes_back_as_calls_leave_the_window():
    made = tuple(range(9 * S, 10 * S, 50_000))

    found = forecast(Standing(10 * S, [Filling(TWENTY_A_SECOND, leaving=made)]), within=ROUND, most=3)

    assert found == seconds(0.1, 0.155, 0.21)


@pytest.mark.parametrize(
    ("label", "standing", "expected"),
    [
        ("behind those that wait", Standing(0, [Filling(TWENTY_A_SECOND)], last_reserved=S), seconds(1.055, 1.11)),
        ("after a Retry-After", Standing(0, [Filling(TWENTY_A_SECOND)], opens_at=2 * S), seconds(2, 2.055)),
        ("a slowed account", Standing(0, [Filling(Span(1, S, 0), share=0.5)]), seconds(0, 2.2)),
        ("a full long window", Standing(0, [Filling(TWENTY_A_SECOND), Filling(Span(1, 99 * S, 0), leaving=(0,))]), []),
        ("an empty bucket", Standing(0, [Filling(Span(1, S, 0, burst=3), full=3_300_000)]), seconds(1.3, 2.4)),
        ("places in flight", Standing(0, [], concurrent=2, flying=1, hold_us=3 * S), seconds(0, 1.5)),
        ("no room within the round", Standing(0, [Filling(TWENTY_A_SECOND)], opens_at=6 * S), []),
    ],
)  # fmt: skip
def test_each_limit_counts(label, standing, expected):
    assert forecast(standing, within=ROUND, most=2) == expected


class Door:
    def __init__(self, *waits):
        self.waits = seconds(*waits)

    def room(self, account, kind, *, within, most):
        return self.waits[:most]


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ([], seconds(0, 0, 0, 0)),
        ([Door(0, 1, 2, 3, 4)], seconds(0, 1, 2, 3)),
        ([Door(0, 0, 3), Door(1, 1, 1, 1)], seconds(1, 1, 3)),
        ([Door(), Door(1)], []),
    ],
)
def test_a_call_goes_when_the_last_of_its_gates_opens(gates, expected):
    engine = Engine(None, {}, {}, None, "w", gates)

    assert engine.room("crm:default", "create_lead", within=ROUND, most=4) == expected
