"""The breaker that workers share, on a real Valkey: the local one's answers, and one truth for four processes."""

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pybreaker
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.policy import load_specs
from delivery.breaker import Change, Pass, Refusal
from delivery.breaker_local import LocalCircuit
from delivery.commands import CreateLead
from delivery.ids import new_id
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded
from delivery.ports import Claimed, Order, Settlement
from sandbox.valkey import ValkeyServer
from tests.property.delivery.breaker_machine import RULES, BreakerMachine, calls, passed, trials, trip
from worker.breaker import BreakerGate, Changed
from worker.breaker_redis import RedisCircuit
from worker.breaker_shared import BreakerUnreachable, Line, SharedBreaker

NAME = "crm:default/create_lead"
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
DRIVEN = "local now = tonumber(redis.call('GET', 'test-clock'))"
GOOD = Succeeded(Receipt("LEAD-1"))
BUSY = Deferred("unavailable", timedelta(seconds=1), "busy")
REFUSED = Rejected("invalid", "a field is wrong")
NO_SLOT = Deferred("limited", timedelta(seconds=1), "no slot", burned=False)


def client(url):
    return Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def redis(redis_url):
    connection = client(redis_url)
    connection.flushdb()
    yield connection
    connection.close()


@pytest.fixture
def away():
    connection = client("redis://127.0.0.1:1/0")
    yield connection
    connection.close()


class Clock:
    """One clock for the local circuit, the shared one and the gate."""

    def __init__(self, redis):
        self.redis = redis
        self.ms = 1_700_000_000_000
        self.go(0)

    def go(self, seconds):
        self.ms += int(seconds * 1000)
        self.redis.set("test-clock", self.ms)

    def __call__(self):
        return self.ms / 1000


@pytest.fixture
def clock(redis):
    return Clock(redis)


@pytest.fixture
def circuit(redis, clock):
    return RedisCircuit(redis, NAME, RULES, clock=DRIVEN)


class Log:
    def __init__(self):
        self.lines = []

    def log(self, level, event, **fields):
        self.lines.append((event, fields))


# --- the same rules -------------------------------------------------------------------------------------------------


class Both(BreakerMachine):
    """The shared circuit and the local one, asked the same things at the same instants."""

    redis: Redis

    def __init__(self):
        super().__init__()
        self.redis.flushdb()
        self.clock = Clock(self.redis)
        self.pair = (RedisCircuit(self.redis, NAME, RULES, clock=DRIVEN), LocalCircuit(RULES, self.clock))
        self.count = 0

    def ask(self):
        self.count += 1
        shared, local = (each.admit(f"{self.count}") for each in self.pair)
        assert replace(shared, answer=None) == replace(local, answer=None)
        assert era_less(shared.answer) == era_less(local.answer)
        return shared.answer, local.answer

    def tell(self, call, mark):
        if isinstance(call[0], Pass):
            shared, local = (each.record(granted, mark) for each, granted in zip(self.pair, call, strict=True))
            assert shared == local

    def force(self, mode):
        shared, local = (each.force(mode, actor="ana", reason="teste") for each in self.pair)
        assert shared == local

    @rule(to=st.sampled_from(["open", "half-open", "closed"]))
    def move(self, to):
        shared, local = (each.move(to) for each in self.pair)
        assert shared == local

    @invariant()
    def both_look_the_same(self):
        shared, local = (each.view() for each in self.pair)
        assert shared == local


def era_less(answer):
    return replace(answer, era=0) if isinstance(answer, Pass) else answer


def test_the_shared_breaker_does_what_the_local_one_does(redis):
    run_state_machine_as_test(
        type("OnThisRedis", (Both,), {"redis": redis}),
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


# --- what only Redis has --------------------------------------------------------------------------------------------


def test_the_servers_own_clock_opens_and_tries(redis):
    quick = replace(RULES, open_for=timedelta(seconds=1))
    circuit = RedisCircuit(redis, NAME, quick)

    assert trip(circuit)[-1] == Change("closed", "open", failures=4, calls=4)
    assert passed(trials(circuit, 1)) == [False]

    time.sleep(1.05)

    assert passed(trials(circuit, 5)) == [True, True, True, False, False]


def test_two_breakers_know_nothing_of_each_other(redis, clock, circuit):
    other = RedisCircuit(redis, "crm:vendas/create_lead", RULES, clock=DRIVEN)

    trip(circuit)

    assert passed(trials(other, 1)) == [True]


def test_the_keys_of_one_breaker_live_on_one_node_and_end_by_themselves(redis, circuit, clock):
    trip(circuit)
    clock.go(30)
    trials(circuit, 1)
    keys = redis.keys("entrega:breaker:*")

    assert sorted(keys) == [
        b"entrega:breaker:{%s}:state" % NAME.encode(),
        b"entrega:breaker:{%s}:trials" % NAME.encode(),
    ]
    assert all(0 < redis.ttl(each) <= 86_400 for each in keys)


def test_a_closed_breaker_that_nobody_asks_is_forgotten_after_a_day(redis, circuit):
    calls(circuit, "success")

    assert 0 < redis.ttl(f"entrega:breaker:{{{NAME}}}:state") <= 86_400


def test_a_trial_that_reports_after_its_lease_counts_for_nothing(circuit, clock):
    trip(circuit)
    clock.go(30)
    first, *_ = trials(circuit, 3)

    clock.go(45)

    assert circuit.record(first, "failure") is None
    assert (circuit.view().state, circuit.view().lost) == ("half-open", 0)


def test_the_window_holds_no_more_than_sixty_slices(redis, circuit, clock):
    for _ in range(200):
        calls(circuit, "success")
        clock.go(1)

    assert redis.hlen(f"entrega:breaker:{{{NAME}}}:state") <= 60 + 10


def test_an_emptied_redis_means_a_closed_breaker(redis, circuit, clock):
    trip(circuit)
    now = clock.ms

    redis.flushall()
    redis.set("test-clock", now)

    assert passed(trials(circuit, 1)) == [True]
    assert circuit.view().state == "closed"


def test_a_result_from_before_an_emptied_redis_does_no_harm(redis, circuit, clock):
    trip(circuit)
    clock.go(30)
    first, *_ = trials(circuit, 3)

    redis.flushall()
    clock.go(0)

    assert circuit.record(first, "failure") is None
    assert circuit.view().calls == 0


def test_a_clock_that_steps_back_an_hour_does_not_keep_it_open_for_an_hour(circuit, clock):
    trip(circuit)

    clock.go(-3600)
    refused = circuit.admit("x").answer
    clock.go(30)

    assert refused == Refusal(timedelta(seconds=30))
    assert passed(trials(circuit, 4)) == [True, True, True, False]


def test_a_clock_that_steps_back_frees_the_places_of_forgotten_trials(circuit, clock):
    trip(circuit)
    clock.go(30)
    trials(circuit, 3)

    clock.go(-3600)

    assert passed(trials(circuit, 4)) == [True, True, True, False]


@pytest.mark.parametrize(("seconds", "kept"), [(-2, 4), (-3600, 1)])
def test_a_window_survives_a_small_step_back_and_is_dropped_after_a_large_one(circuit, clock, seconds, kept):
    calls(circuit, "success", "success", "failure")

    clock.go(seconds)
    calls(circuit, "success")

    assert circuit.view().calls == kept


def test_an_override_keeps_its_words_and_never_lapses(redis, circuit, clock):
    circuit.force("open", actor="ana", reason='manutenção "planejada"')
    clock.go(7200)

    forced = circuit.view().forced

    assert (forced.actor, forced.reason, forced.age) == ("ana", 'manutenção "planejada"', timedelta(hours=2))
    assert redis.ttl(f"entrega:breaker:{{{NAME}}}:override") == -1


def test_what_was_held_open_for_days_is_still_tried_before_it_is_let_go(redis, circuit):
    circuit.force("open", actor="ana", reason="manutenção")
    while_held = redis.ttl(f"entrega:breaker:{{{NAME}}}:state")
    circuit.force("auto", actor="ana", reason="pronto")

    assert while_held == -1
    assert 0 < redis.ttl(f"entrega:breaker:{{{NAME}}}:state") <= 86_400
    assert passed(trials(circuit, 4)) == [True, True, True, False]


# --- pybreaker's face -----------------------------------------------------------------------------------------------


class Ears(pybreaker.CircuitBreakerListener):
    def __init__(self):
        self.heard = []

    def success(self, cb):
        self.heard.append("success")

    def failure(self, cb, exc):
        self.heard.append(type(exc).__name__)

    def state_change(self, cb, old_state, new_state):
        self.heard.append(f"{old_state.name} to {new_state.name}")


def breaker_on(circuit, *, line=None, **more):
    return SharedBreaker(NAME, RULES, shared=circuit, line=line or Line(time.monotonic, Log()), **more)


def fail(error=ConnectionError):
    raise error("away")


def test_call_raises_the_calls_own_error_and_then_refuses(circuit):
    breaker = breaker_on(circuit)

    for _ in range(4):
        with pytest.raises(ConnectionError):
            breaker.call(fail)

    with pytest.raises(pybreaker.CircuitBreakerError):
        breaker.call(fail)
    assert (breaker.current_state, breaker.fail_counter) == (pybreaker.STATE_OPEN, 4)
    assert abs(breaker._state_storage.opened_at - datetime.now(UTC)) < timedelta(seconds=5)


def test_an_excluded_error_counts_for_nothing(circuit):
    breaker = breaker_on(circuit, exclude=[ValueError])

    for _ in range(8):
        with pytest.raises(ValueError, match="away"):
            breaker.call(fail, ValueError)

    assert (breaker.current_state, circuit.view().calls) == (pybreaker.STATE_CLOSED, 0)


def test_listeners_hear_calls_and_changes(circuit, clock):
    ears = Ears()
    breaker = breaker_on(circuit, listeners=[ears])

    breaker(lambda: "ok")()
    for _ in range(3):
        with pytest.raises(ConnectionError), breaker.calling():
            fail()
    clock.go(30)
    for _ in range(3):
        breaker.call(lambda: "ok")

    assert ears.heard[:4] == ["success", "ConnectionError", "ConnectionError", "ConnectionError"]
    assert ears.heard[4:6] == ["closed to open", "open to half-open"]
    assert ears.heard[-2:] == ["half-open to closed", "success"]


def test_open_and_close_by_hand_reach_every_worker(redis, circuit):
    here, there = breaker_on(circuit), breaker_on(RedisCircuit(redis, NAME, RULES, clock=DRIVEN))

    here.open()
    opened = there.state.name
    there.close()

    assert (opened, here.state.name) == ("open", "closed")


def test_calls_of_one_process_run_side_by_side(circuit):
    breaker = breaker_on(circuit)
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        met = list(threads.map(lambda _: breaker.call(barrier.wait, 5), range(2)))

    assert sorted(met) == [0, 1]


# --- the gate -------------------------------------------------------------------------------------------------------


def claimed():
    return Claimed(Order(new_id(), "crm:default", LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC)), "tests", 1, {}, 0)


def specs(**changes):
    crm = load_specs()["crm"]
    return {"crm": crm.model_copy(update={"breaker": crm.breaker.model_copy(update=changes)})}


def attempt(gate, outcome, http_status=None):
    """Return None when the attempt was carried out, else why it was not."""
    one = claimed()
    shut = gate.closed([one])[0]
    if shut is None:
        gate.ended([Settlement(one, outcome, http_status)])
    return shut


def attempts(gate, outcome, http_status, count):
    return [attempt(gate, outcome, http_status) for _ in range(count)]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def gate(redis, log):
    return BreakerGate(specs(), redis, log=log)


def test_a_failing_provider_closes_the_gate_without_burning_an_attempt(gate):
    attempts(gate, BUSY, 503, 10)

    shut = attempt(gate, GOOD)

    assert (shut.code, shut.burned) == ("breaker_open", False)
    assert timedelta(seconds=29) < shut.wait <= timedelta(seconds=35)


@pytest.mark.parametrize(("outcome", "http_status"), [(REFUSED, 422), (NO_SLOT, None)])
def test_refused_requests_and_later_gates_never_close_it(gate, outcome, http_status):
    attempts(gate, outcome, http_status, 30)

    assert gate.closed([claimed()])[0] is None
    assert gate.status("crm:default", "create_lead").calls == 0


def test_each_change_is_one_log_line_and_one_call_of_the_hook(redis, log):
    heard = []
    gate = BreakerGate(specs(), redis, log=log, changed=heard.append)

    attempts(gate, BUSY, 503, 12)

    assert log.lines == [
        (
            "breaker_changed",
            {
                "account": "crm:default",
                "operation": "create_lead",
                "from": "closed",
                "to": "open",
                "failures": 10,
                "calls": 10,
                "shared": True,
            },
        )
    ]
    assert heard == [Changed("crm:default", "create_lead", "closed", "open", 10, 10, shared=True)]


def test_a_faulty_hook_decides_no_delivery(redis, log):
    gate = BreakerGate(specs(), redis, log=log, changed=lambda change: 1 / 0)

    shut = attempts(gate, BUSY, 503, 11)[-1]

    assert shut.code == "breaker_open"


def test_a_gate_that_closed_later_gives_the_trials_place_back(redis, log):
    gate = BreakerGate(specs(open_for=timedelta()), redis, log=log)
    attempts(gate, BUSY, 503, 10)

    shut = attempts(gate, NO_SLOT, None, 9)

    status = gate.status("crm:default", "create_lead")
    assert shut == [None] * 9
    assert (status.state, status.trials_out) == ("half-open", 0)


def test_operators_see_when_it_opened_and_when_a_trial_may_go(gate):
    attempts(gate, GOOD, 201, 5)
    attempts(gate, BUSY, 503, 5)

    status = gate.status("crm:default", "create_lead")

    assert (status.state, status.calls, status.failures, status.shared) == ("open", 10, 5, True)
    assert abs(status.opened_at - datetime.now(UTC)) < timedelta(seconds=5)
    assert abs(status.next_trial_at - status.opened_at - timedelta(seconds=30)) < timedelta(seconds=1)


def test_an_operator_holds_it_open_for_every_worker_and_lets_it_go(redis, gate):
    other = BreakerGate(specs(), redis, log=Log())

    held = gate.force("crm:default", "create_lead", "open", actor="ana", reason="manutenção")
    shut = attempt(other, GOOD)
    gate.force("crm:default", "create_lead", "auto", actor="ana", reason="pronto")
    ends = attempts(other, GOOD, 201, 3)

    assert (held.state, held.override.mode, held.override.actor) == ("open", "open", "ana")
    assert "an operator" in shut.reason
    assert ends == [None, None, None]
    assert other.status("crm:default", "create_lead").state == "closed"
    assert other.status("crm:default", "create_lead").override is None


def test_an_unknown_breaker_is_named_in_the_error(gate):
    with pytest.raises(LookupError, match="crm:default has no operation send_fax; it has create_lead"):
        gate.status("crm:default", "send_fax")


def test_every_operation_of_the_accounts_is_listed(gate):
    listed = [(each.account, each.operation) for each in gate.statuses(["crm:default", "crm:vendas"])]

    assert listed == [("crm:default", "create_lead"), ("crm:vendas", "create_lead")]


# --- Redis away -----------------------------------------------------------------------------------------------------


def test_without_redis_the_process_keeps_the_same_rules_alone(away, log):
    gate = BreakerGate(specs(), away, log=log)

    attempts(gate, BUSY, 503, 10)

    assert attempt(gate, GOOD).code == "breaker_open"
    assert gate.status("crm:default", "create_lead").shared is False
    assert [event for event, _ in log.lines] == ["breaker_local", "breaker_changed"]


def test_a_system_without_any_redis_has_local_breakers(log):
    gate = BreakerGate(specs(), None, log=log)

    attempts(gate, BUSY, 503, 10)

    assert attempt(gate, GOOD).code == "breaker_open"


def test_an_override_that_redis_cannot_keep_is_refused(away, log):
    gate = BreakerGate(specs(), away, log=log)

    with pytest.raises(BreakerUnreachable, match="Redis is away"):
        gate.force("crm:default", "create_lead", "open", actor="ana", reason="manutenção")


def test_an_operators_word_outlives_redis_in_the_processes_that_saw_it(tmp_path):
    server = ValkeyServer(tmp_path)
    redis = client(server.start())
    gate = BreakerGate(specs(), redis, log=Log())
    gate.force("crm:default", "create_lead", "open", actor="ana", reason="manutenção")

    server.kill()
    while_away = attempt(gate, GOOD)
    redis.close()

    assert "an operator" in while_away.reason


def test_redis_going_away_and_coming_back(tmp_path):
    server = ValkeyServer(tmp_path)
    redis, log = client(server.start()), Log()
    now = [0.0]
    gate = BreakerGate(specs(), redis, log=log, ticks=lambda: now[0])
    attempts(gate, BUSY, 503, 10)

    server.kill()
    while_away = attempt(gate, GOOD)
    server.start()
    too_early = gate.status("crm:default", "create_lead").shared
    now[0] = 6.0
    back = gate.status("crm:default", "create_lead").shared
    server.stop()
    redis.close()

    assert while_away.code == "breaker_open"  # an ill provider is not stormed because Redis went away
    assert (too_early, back) == (False, True)
    assert [event for event, _ in log.lines if event != "breaker_changed"] == ["breaker_local", "breaker_shared"]


# --- four worker processes ------------------------------------------------------------------------------------------

SHORT = timedelta(seconds=2)  # for four processes to see it open, also where they get little time


def work(url, pipe):
    """One worker process: does what it is told until the pipe closes."""
    redis = client(url)
    gate = BreakerGate(specs(open_for=SHORT), redis, log=Log())
    driven = RedisCircuit(redis, "driven", RULES, clock=DRIVEN)
    held = []

    def hold(_):
        one = claimed()
        if gate.closed([one])[0] is None:
            held.append(one)
            return True
        return False

    def end(outcome, http_status):
        for one in held:
            gate.ended([Settlement(one, outcome, http_status)])
        held.clear()

    steps = {
        "attempts": lambda *what: [each is None for each in attempts(gate, *what)],
        "hold": lambda count: list(ThreadPoolExecutor(8).map(hold, range(count))),
        "end": end,
        "state": lambda: gate.status("crm:default", "create_lead").state,
        "take trials": lambda: passed(driven.admit(f"{new_id()}").answer for _ in range(3)),
    }
    while True:
        try:
            step, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(steps[step](*arguments))


class Workers:
    def __init__(self, url, count):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["worker.breaker", "hypothesis.stateful", "sandbox.valkey"])
        ends = [context.Pipe() for _ in range(count)]
        self.pipes = [ours for ours, _ in ends]
        self.processes = [context.Process(target=work, args=(url, theirs), daemon=True) for _, theirs in ends]
        for each in self.processes:
            each.start()
        for _, theirs in ends:
            theirs.close()

    def all_do(self, step, *arguments):
        """Tell every process at the same time; return one answer for each."""
        for pipe in self.pipes:
            pipe.send((step, arguments))
        return [self._answer(pipe) for pipe in self.pipes]

    def one_does(self, number, step, *arguments):
        self.pipes[number].send((step, arguments))
        return self._answer(self.pipes[number])

    def end(self):
        for pipe in self.pipes:
            pipe.close()
        for each in self.processes:
            each.join(5)

    @staticmethod
    def _answer(pipe):
        assert pipe.poll(120), "a worker process gave no answer within 120 s"
        return pipe.recv()


@pytest.fixture
def workers(redis, redis_url):
    crew = Workers(redis_url, 4)
    crew.all_do("state")
    yield crew
    crew.end()


def admitted(answers):
    return sum(sum(each) for each in answers)


def test_four_processes_open_try_and_close_as_one(workers):
    workers.one_does(0, "attempts", GOOD, 201, 5)
    workers.one_does(1, "attempts", BUSY, 503, 4)
    before = workers.all_do("state")
    workers.one_does(2, "attempts", BUSY, 503, 1)
    opened = workers.all_do("state")
    while_open = workers.all_do("attempts", GOOD, 201, 5)

    time.sleep(SHORT.total_seconds() + 0.05)
    first_round = workers.all_do("hold", 16)
    workers.all_do("end", BUSY, 503)
    opened_again = workers.all_do("state")

    time.sleep(SHORT.total_seconds() + 0.05)
    second_round = workers.all_do("hold", 16)
    workers.all_do("end", GOOD, 201)
    closed = workers.all_do("state")
    afterwards = workers.all_do("attempts", GOOD, 201, 5)

    assert (before, opened) == (["closed"] * 4, ["open"] * 4)
    assert admitted(while_open) == 0
    assert admitted(first_round) == 3
    assert opened_again == ["open"] * 4
    assert admitted(second_round) == 3
    assert closed == ["closed"] * 4
    assert admitted(afterwards) == 20


def test_the_places_of_a_killed_worker_come_back(redis, clock, workers):
    trip(RedisCircuit(redis, "driven", RULES, clock=DRIVEN))
    clock.go(30)

    taken = workers.one_does(0, "take trials")
    workers.processes[0].kill()
    workers.processes[0].join(5)
    blocked = workers.one_does(1, "take trials")
    clock.go(45)
    again = workers.one_does(1, "take trials")

    assert taken == [True, True, True]
    assert blocked == [False, False, False]
    assert again == [True, True, True]


def test_a_set_of_calls_counts_as_if_each_had_come_alone(gate):
    first, second = [claimed() for _ in range(6)], [claimed() for _ in range(6)]

    went = gate.closed(first + second)
    gate.ended([Settlement(each, GOOD, 201) for each in first] + [Settlement(each, BUSY, 503) for each in second[:5]])
    before = gate.status("crm:default", "create_lead")
    gate.ended([Settlement(second[5], BUSY, 503)])
    after = gate.status("crm:default", "create_lead")

    assert went == [None] * 12
    assert (before.state, before.calls, before.failures) == ("closed", 11, 5)
    assert (after.state, after.calls, after.failures) == ("open", 12, 6)


def test_failures_of_a_set_are_weighed_with_its_successes(gate):
    calls = [claimed() for _ in range(21)]
    gate.closed(calls)

    gate.ended([Settlement(each, BUSY, 503) for each in calls[:10]] + [Settlement(e, GOOD, 201) for e in calls[10:]])

    assert gate.status("crm:default", "create_lead").state == "closed"


def test_of_a_set_only_the_trials_go_while_it_is_half_open(redis, log):
    gate = BreakerGate(specs(open_for=timedelta(milliseconds=50)), redis, log=log)
    attempts(gate, BUSY, 503, 10)
    time.sleep(0.06)
    calls = [claimed() for _ in range(8)]

    answers = gate.closed(calls)
    gate.ended([Settlement(each, GOOD, 201) for each, shut in zip(calls, answers, strict=True) if shut is None])

    assert [shut is None for shut in answers] == [True] * 3 + [False] * 5
    assert gate.status("crm:default", "create_lead").state == "closed"


def test_a_set_that_began_before_a_change_counts_for_nothing_after_it(gate):
    late = [claimed() for _ in range(20)]
    gate.closed(late)
    attempts(gate, BUSY, 503, 10)

    gate.ended([Settlement(each, GOOD, 201) for each in late])

    assert gate.status("crm:default", "create_lead").state == "open"


def test_coroutines_are_refused_because_nothing_would_guard_them():
    with pytest.raises(NotImplementedError, match="coroutines are not guarded"):
        breaker_on(LocalCircuit(RULES)).call_async(print)
