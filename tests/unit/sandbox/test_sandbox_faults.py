"""Fault plans: what is a fault, who gets it, and how often."""

import pytest

from sandbox.faults import Fault, FaultPlan, RateLimit, Window, settings_from


@pytest.mark.parametrize(
    "value",
    [
        {"status": 503, "retry_after": "2", "body": {"error": "busy"}},
        {"hang_s": 5.0, "effect": True},
        {"close": "before"},
        {"close": "after", "times": None},
        {"truncate": True, "match": "create_lead"},
        {"expire_tokens": True},
        {"html": 502},
        {"graph_error": 131056, "status": 429},
    ],
)
def test_a_fault_survives_its_json_form(value: dict[str, object]) -> None:
    fault = Fault.from_json(value)

    assert fault.as_json() == {"times": 1, **value}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"times": 2},
        {"status": 503, "close": "before"},
        {"close": "sometimes"},
        {"status": 42},
        {"status": 503, "times": 0},
        {"stauts": 503},
        None,
    ],
)
def test_what_is_not_a_fault_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own message
        Fault.from_json(value)


@pytest.mark.parametrize(
    ("value", "acts"),
    [
        ({"status": 500}, False),
        ({"status": 500, "effect": True}, True),
        ({"html": 502}, False),
        ({"hang_s": 1}, True),
        ({"hang_s": 1, "effect": False}, False),
        ({"close": "before"}, False),
        ({"close": "after"}, True),
        ({"truncate": True}, True),
    ],
)
def test_a_fault_knows_whether_the_request_is_carried_out(value: dict[str, object], *, acts: bool) -> None:
    fault = Fault.from_json(value)

    assert fault.acts is acts


def test_faults_are_handed_out_in_order_and_as_often_as_asked() -> None:
    plan = FaultPlan()
    plan.add(Fault(status=500, times=2))
    plan.add(Fault(status=503))

    taken = [plan.take(()) for _ in range(4)]

    assert [fault and fault.status for fault in taken] == [500, 500, 503, None]


def test_a_fault_without_a_number_of_times_stays_until_it_is_cleared() -> None:
    plan = FaultPlan()
    plan.add(Fault(close="before", times=None))

    taken = [plan.take(()) for _ in range(3)]
    plan.clear()

    assert all(taken)
    assert plan.take(()) is None


def test_a_fault_for_one_delivery_waits_for_that_delivery() -> None:
    plan = FaultPlan()
    plan.add(Fault(status=500, match="delivery-7"))

    stranger = plan.take({"create_lead", "delivery-6"})
    concerned = plan.take({"create_lead", "delivery-7"})

    assert stranger is None
    assert concerned is not None


def test_what_is_still_to_come_is_shown_with_the_times_that_are_left() -> None:
    plan = FaultPlan()
    plan.add(Fault(status=503, times=3))
    plan.take(())

    assert plan.coming() == [{"status": 503, "times": 2}]


def test_a_window_lets_as_many_pass_as_it_has_places_and_then_says_how_long_to_wait() -> None:
    window = Window(RateLimit(limit=2, window_s=10))

    waits = [window.refuse(now) for now in (100.0, 101.0, 104.0, 110.0)]

    assert waits == [None, None, 6.0, None]


@pytest.mark.parametrize("value", [None, [], {"unknown": 1}])
def test_unknown_settings_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="latency_s"):
        settings_from(value, {"latency_s"})
