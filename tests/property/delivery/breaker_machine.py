"""What every test of a breaker needs: rules, the steps of one call, and any order of steps as a state machine."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from delivery.breaker import Pass, Rules

RULES = Rules(
    failure_ratio=0.5,
    window=timedelta(seconds=60),
    minimum_calls=4,
    open_for=timedelta(seconds=30),
    trials=3,
    close_ratio=0.7,
    lease=timedelta(seconds=45),
)


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, ends, waiting and overrides.

    A subclass sets `clock` and has `ask()`, which returns a call, `tell(call, mark)` and `force(mode)`; each asks two
    breakers, or a breaker and its model, and compares.
    """

    under_way = Bundle("under_way")

    @rule(ms=st.one_of(st.integers(1, 3_000), st.sampled_from([2_000, 3_000, 6_000, 30_000, 45_000, 60_000])))
    def wait(self, ms):
        self.clock.go(seconds=ms / 1000)

    @rule(target=under_way)
    def start(self):
        return self.ask()

    @rule(call=consumes(under_way), mark=st.sampled_from(["success", "failure", "neutral"]))
    def end(self, call, mark):
        self.tell(call, mark)

    @rule(marks=st.lists(st.sampled_from(["success", "failure", "failure", "neutral"]), min_size=1, max_size=6))
    def calls_in_a_row(self, marks):
        for mark in marks:
            self.tell(self.ask(), mark)

    @rule(mode=st.sampled_from(["auto", "auto", "open", "closed"]))
    def override(self, mode):
        self.force(mode)


def calls(circuit, *marks):
    return [circuit.record(circuit.admit(f"{n}").answer, mark) for n, mark in enumerate(marks)]


def trip(circuit):
    return calls(circuit, *["failure"] * RULES.minimum_calls)


def trials(circuit, count):
    return [circuit.admit(f"trial-{n}").answer for n in range(count)]


def passed(answers):
    return [isinstance(each, Pass) for each in answers]
