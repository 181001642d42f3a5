"""The local breaker against a model that keeps every event in a list and works everything out anew each time."""

from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from delivery.breaker import Change, Pass, Refusal, Rules
from delivery.breaker_local import LocalCircuit
from tests.property.delivery.breaker_machine import RULES, BreakerMachine, calls, passed, trials, trip

OTHER_RULES = Rules(
    failure_ratio=0.3,
    window=timedelta(seconds=6),
    minimum_calls=1,
    open_for=timedelta(seconds=2),
    trials=5,
    close_ratio=0.6,
    lease=timedelta(seconds=3),
)


class Clock:
    def __init__(self):
        self.ms = 1_000

    def __call__(self):
        return self.ms / 1000

    def go(self, **span):
        self.ms += timedelta(**span) // timedelta(milliseconds=1)


class Model:
    """What the rules say, told with lists. Instants in milliseconds."""

    def __init__(self, rules):
        self.rules = rules
        self.state, self.mode = "closed", "auto"
        self.era = 0
        self.ready_at = 0
        self.calls = []
        self.leases = {}
        self.ends = []

    def change(self, state, now):
        self.state, self.era = state, self.era + 1
        self.ready_at = now + self.rules.open_for / timedelta(milliseconds=1)
        self.calls, self.leases, self.ends = [], {}, []

    def in_window(self, now):
        slice_ms = self.rules.window / timedelta(milliseconds=1) / 60
        return [failed for at, failed in self.calls if at // slice_ms > now // slice_ms - 60]

    def out(self, now):
        return {token for token, end in self.leases.items() if end > now}

    def admits(self, token, now):
        if self.mode == "auto" and self.state == "open" and now >= self.ready_at:
            self.change("half-open", now)
        if self.state == "half-open" and len(self.out(now)) + len(self.ends) < self.rules.trials:
            self.leases[token] = now + self.rules.lease / timedelta(milliseconds=1)
            return True
        return self.state == "closed"

    def learns(self, token, era, mark, now):
        if era != self.era:
            return
        if self.state == "closed" and mark != "neutral":
            self.calls.append((now, mark == "failure"))
            window = self.in_window(now)
            enough = len(window) >= self.rules.minimum_calls
            if self.mode == "auto" and enough and sum(window) / len(window) >= self.rules.failure_ratio:
                self.change("open", now)
        elif self.state == "half-open" and token in self.out(now):
            del self.leases[token]
            self.ends += [mark] if mark != "neutral" else []
            self.decides(now)

    def decides(self, now):
        left = self.rules.trials - len(self.ends)
        won = self.ends.count("success")
        if won / self.rules.trials >= self.rules.close_ratio:
            self.change("closed", now)
        elif (won + left) / self.rules.trials < self.rules.close_ratio:
            self.change("open", now)

    def forced(self, mode, now):
        before, self.mode = self.mode, mode
        if mode == "auto":
            self.ready_at = now if before == "open" else self.ready_at
        elif self.state != mode:
            self.change(mode, now)


class AgainstModel(BreakerMachine):
    """The local breaker and the model, asked the same things at the same instants."""

    @initialize(rules=st.sampled_from([RULES, OTHER_RULES]))
    def begin(self, rules):
        self.clock = Clock()
        self.circuit = LocalCircuit(rules, self.clock)
        self.model = Model(rules)
        self.count = 0

    def ask(self):
        self.count += 1
        token = str(self.count)
        expected = self.model.admits(token, self.clock.ms)
        answer = self.circuit.admit(token).answer
        assert isinstance(answer, Pass) == expected
        return answer, self.model.era

    def tell(self, call, mark):
        answer, era = call
        if isinstance(answer, Pass):
            self.circuit.record(answer, mark)
            self.model.learns(answer.token, era, mark, self.clock.ms)

    def force(self, mode):
        self.circuit.force(mode, actor="ana", reason="teste")
        self.model.forced(mode, self.clock.ms)

    @precondition(lambda self: hasattr(self, "model") and self.model.state == "open" and self.model.mode == "auto")
    @rule()
    def wait_until_trials_may_go(self):
        self.clock.ms = max(self.clock.ms, int(self.model.ready_at))

    @invariant()
    def both_look_the_same(self):
        if not hasattr(self, "model"):
            return
        view, now = self.circuit.view(), self.clock.ms
        window = self.model.in_window(now)
        assert (view.state, view.mode) == (self.model.state, self.model.mode)
        assert view.trials_out == len(self.model.out(now))
        assert view.trials_out + view.won + view.lost <= self.model.rules.trials
        if view.state == "closed":
            assert (view.calls, view.failures) == (len(window), sum(window))


AgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTheLocalBreakerDoesWhatTheModelSays = AgainstModel.TestCase


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuit(clock):
    return LocalCircuit(RULES, clock)


def test_half_of_the_calls_failing_opens_it(circuit):
    changes = calls(circuit, "success", "failure", "success", "failure")

    assert changes == [None, None, None, Change("closed", "open", failures=2, calls=4)]


def test_too_few_calls_never_open_it(circuit):
    calls(circuit, "failure", "failure", "failure")

    assert circuit.view().state == "closed"


def test_fewer_than_half_failing_leaves_it_closed(circuit):
    calls(circuit, "success", "success", "success", "failure", "failure")

    assert circuit.view().state == "closed"


def test_failures_older_than_the_window_are_forgotten(circuit, clock):
    calls(circuit, "failure", "failure", "failure")

    clock.go(seconds=60)
    calls(circuit, "failure")

    assert (circuit.view().state, circuit.view().calls) == ("closed", 1)


def test_an_open_breaker_says_how_long_it_stays_open(circuit, clock):
    trip(circuit)

    clock.go(seconds=12)

    assert circuit.admit("x").answer == Refusal(timedelta(seconds=18))


def test_exactly_the_trials_are_let_through_after_the_open_time(circuit, clock):
    trip(circuit)
    clock.go(seconds=30)

    answers = trials(circuit, 10)

    assert passed(answers) == [True] * 3 + [False] * 7
    assert answers[3] == Refusal(timedelta())


def test_three_good_trials_close_it(circuit, clock):
    trip(circuit)
    clock.go(seconds=30)

    changes = [circuit.record(each, "success") for each in trials(circuit, 3)]

    assert changes == [None, None, Change("half-open", "closed", failures=0, calls=3)]


def test_one_bad_trial_of_three_opens_it_again_for_the_whole_time(circuit, clock):
    trip(circuit)
    clock.go(seconds=30)
    first, second, _ = trials(circuit, 3)

    circuit.record(first, "success")
    change = circuit.record(second, "failure")

    assert change == Change("half-open", "open", failures=1, calls=2)
    assert circuit.admit("x").answer == Refusal(timedelta(seconds=30))


def test_a_trial_that_says_nothing_gives_its_place_back(circuit, clock):
    trip(circuit)
    clock.go(seconds=30)
    first, *_ = trials(circuit, 3)

    circuit.record(first, "neutral")

    assert isinstance(circuit.admit("x").answer, Pass)
    assert circuit.view().state == "half-open"


def test_a_forgotten_trial_does_not_block_it_for_ever(circuit, clock):
    trip(circuit)
    clock.go(seconds=30)
    trials(circuit, 3)

    clock.go(seconds=45)

    assert passed(trials(circuit, 4)) == [True, True, True, False]


def test_a_trial_that_reports_after_its_lease_counts_for_nothing(circuit, clock):
    trip(circuit)
    clock.go(seconds=30)
    first, *_ = trials(circuit, 3)

    clock.go(seconds=45)

    assert circuit.record(first, "failure") is None
    assert circuit.view().state == "half-open"


def test_a_call_from_before_the_opening_counts_for_nothing_afterwards(circuit, clock):
    slow = circuit.admit("slow").answer
    trip(circuit)
    clock.go(seconds=30)
    [circuit.record(each, "success") for each in trials(circuit, 3)]

    circuit.record(slow, "failure")

    assert circuit.view().calls == 0


def test_forced_open_refuses_also_after_the_open_time(circuit, clock):
    circuit.force("open", actor="ana", reason="manutenção")

    clock.go(hours=9)

    assert circuit.admit("x").answer == Refusal(timedelta(seconds=30), forced=True)


def test_forced_closed_lets_everything_through_whatever_fails(circuit):
    circuit.force("closed", actor="ana", reason="alarme falso")

    calls(circuit, *["failure"] * 50)

    assert (circuit.view().state, circuit.view().failures) == ("closed", 50)


def test_after_forced_open_the_automatic_mode_begins_with_trials(circuit):
    circuit.force("open", actor="ana", reason="manutenção")
    circuit.force("auto", actor="ana", reason="pronto")

    answers = trials(circuit, 4)

    assert passed(answers) == [True, True, True, False]


def test_a_view_names_who_forced_it_and_why(circuit, clock):
    circuit.force("open", actor="ana", reason="manutenção")
    clock.go(seconds=5)

    forced = circuit.view().forced

    assert (forced.actor, forced.reason, forced.age) == ("ana", "manutenção", timedelta(seconds=5))


def test_a_forced_breaker_is_not_moved_by_pybreakers_open_and_close(circuit):
    circuit.force("closed", actor="ana", reason="alarme falso")

    assert circuit.move("open") is None
