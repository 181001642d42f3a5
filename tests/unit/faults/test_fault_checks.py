"""What the fault suite's checker counts as broken: it must see what it is there to see."""

from collections import Counter
from types import SimpleNamespace

import pytest

from tests.faults.checker import Books, both_unproved, out_of_order
from tests.faults.commands import CANARIES, order
from tests.faults.faults import KINDS
from tests.faults.ground import IN_FLIGHT
from tests.faults.load import Answers
from tests.faults.pace import fullest
from tests.faults.plan import make_plan
from tests.faults.secrecy import in_flower, leaks


def _books(rows, effects=(), places=()):
    complete = {
        id_: SimpleNamespace(**{"order_key": None, "fallback_id": None, "code": "ok"} | row)
        for id_, row in rows.items()
    }
    return Books(Answers(), complete, Counter(effects), dict(places), (), {})


def test_a_seed_gives_the_same_plan_and_every_kind_before_any_comes_again():
    first, again = (make_plan(7, deliveries=1000, faults=len(KINDS) + 5, kinds=tuple(KINDS)) for _ in range(2))

    assert first == again
    assert {each.kind for each in first.steps[: len(KINDS)]} == set(KINDS)


def test_a_seed_gives_the_same_commands_but_for_their_instants():
    bodies = [(order(7, n).kind, order(7, n).cancel, order(7, n).repeat) for n in range(300)]

    assert bodies == [(order(7, n).kind, order(7, n).cancel, order(7, n).repeat) for n in range(300)]
    assert len({kind for kind, *_ in bodies}) == 3


@pytest.mark.parametrize(
    ("arrivals", "losses", "most", "after_loss", "broken"),
    [
        ([0.0, 0.5, 0.9], [], 3, 0, False),
        ([0.9, 1.0, 1.8], [], 3, 0, False),  # across the border of two seconds
        ([0.0, 1.1, 2.2], [], 1, 0, False),
        ([n / 1000 for n in range(2 + IN_FLIGHT)], [], 2 + IN_FLIGHT, 0, False),
        ([n / 1000 for n in range(3 + IN_FLIGHT)], [], 3 + IN_FLIGHT, 0, True),
        ([10 + n / 1000 for n in range(4 + IN_FLIGHT)], [9.5], 0, 4 + IN_FLIGHT, False),
        ([10 + n / 1000 for n in range(5 + IN_FLIGHT)], [9.5], 0, 5 + IN_FLIGHT, True),
    ],
)
def test_the_fullest_span_is_found_wherever_it_begins(arrivals, losses, most, after_loss, broken):
    pace = fullest("crm", arrivals, 2, 1.0, losses)

    assert (pace.most, pace.after_loss, bool(pace.broken)) == (most, after_loss, broken)


def test_an_effect_ahead_of_an_earlier_one_of_its_key_is_out_of_order():
    rows = {"1": {"order_key": "a"}, "2": {"order_key": "a"}, "3": {"order_key": "b"}, "4": {"order_key": "a"}}

    assert out_of_order(_books(rows, places={"1": 5, "2": 3, "3": 1, "4": 6})) == ["2"]
    assert out_of_order(_books(rows, places={"1": 3, "3": 4, "4": 5})) == []


def test_a_command_and_its_fallback_are_told_apart_by_what_could_be_known():
    rows = {"1": {"fallback_id": "2", "code": "unconfirmed"}, "2": {}, "3": {"fallback_id": "4"}, "4": {}}

    assert both_unproved(_books(rows, effects=["1", "2", "3"])) == 1


@pytest.mark.parametrize(
    "text", ["... Zefirina ...", "7a65666972696e61", "eyJhIjogInBpdS1waXUtYW1hcmVsbyA3In0=", "5511987650049"]
)
def test_a_canary_is_seen_in_every_form(text):
    assert leaks(text, CANARIES)


def test_a_flower_that_heard_of_nothing_proves_nothing():
    assert in_flower({"api/tasks?limit=5000": "{}"}) == ["Flower heard of no task"]
    assert in_flower({"api/tasks?limit=5000": '{"name": "create_lead"}'}) == []
