"""The arithmetic of a rollout: stages, shares, and when it is taken back."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.policy import Rollback, Rollout
from delivery.ids import new_id
from delivery.rollout import Figures, Stage, Standing, fault, place, room, stage, view

LIMITS = Rollback(error_ratio_above=0.05, p95_above=timedelta(seconds=10), minimum_calls=20)
FORM = Rollout(shares=(0.1, 0.5, 1.0), hold=timedelta(hours=48), rollback=LIMITS)
BEGAN = datetime(2026, 11, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)


def standing(age, *, is_back=False):
    return Standing("crm:default", is_back, BEGAN, age, "ana", "version 2")


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0 * HOUR, Stage(1, 0.1, 0 * HOUR, 48 * HOUR)),
        (47 * HOUR, Stage(1, 0.1, 47 * HOUR, 1 * HOUR)),
        (48 * HOUR, Stage(2, 0.5, 0 * HOUR, 48 * HOUR)),
        (100 * HOUR, Stage(3, 1.0, 4 * HOUR, 44 * HOUR)),
        (144 * HOUR, None),
    ],
)
def test_each_share_holds_for_its_time_and_then_the_next(age, expected):
    assert stage(FORM, standing(age)) == expected


def test_the_last_share_is_watched_as_well_before_the_rollout_is_over():
    last = stage(FORM, standing(143 * HOUR))

    assert (last.share, last.left) == (1.0, HOUR)


def test_a_form_without_a_time_to_hold_lets_everything_go_at_once():
    assert stage(FORM.model_copy(update={"hold": timedelta()}), standing(timedelta())) is None


def test_what_was_taken_back_stands_at_nothing_whatever_its_age():
    assert stage(FORM, standing(1000 * HOUR, is_back=True)) == Stage(0, 0.0, 1000 * HOUR, None)


@given(st.floats(0, 200), st.floats(0, 200))
def test_the_share_never_shrinks(one, other):
    earlier, later = sorted((one * HOUR, other * HOUR))
    shares = [found.share if (found := stage(FORM, standing(age))) else 1.0 for age in (earlier, later)]

    assert shares == sorted(shares)


@given(st.uuids())
def test_a_delivery_that_was_let_in_stays_in(id_):
    is_in = [place(id_, "loja", None) < share for share in FORM.shares]

    assert is_in == sorted(is_in)
    assert is_in[-1]


@pytest.mark.parametrize("share", FORM.shares)
def test_about_the_share_goes_also_of_ids_made_one_after_the_other(share):
    ids = [new_id() for _ in range(20_000)]

    went = sum(place(each, "loja", None) < share for each in ids)

    assert went / len(ids) == pytest.approx(share, abs=0.02)


def test_the_place_is_the_same_in_every_process_and_version():
    found = place(UUID("0193e0a0-0000-7000-8000-000000000000"), "loja", None)

    assert found == pytest.approx(0.195834321408, abs=1e-9)


def test_deliveries_of_one_order_key_go_or_wait_together():
    assert len({place(new_id(), "loja", "pedido-7") for _ in range(20)}) == 1
    assert place(new_id(), "loja", "pedido-7") != place(new_id(), "outra", "pedido-7")


@pytest.mark.parametrize(
    ("share", "most", "expected"), [(0.1, 1000, 100), (0.1, 1, 1), (0.7, 10, 7), (1.0, 5, 5), (0.0, 9, 0), (0.5, 0, 0)]
)
def test_room_is_the_share_of_those_that_wait_and_one_at_least(share, most, expected):
    assert room(share, most) == expected


@pytest.mark.parametrize(
    ("calls", "failures", "p95_s", "expected"),
    [
        (20, 0, 1, None),
        (19, 19, 99, None),
        (20, 1, 10, None),
        (100, 5, 1, None),
        (20, 2, 1, "2 of 20 calls failed, over 0.05 of them"),
        (20, 0, 10.5, "the slowest of 20 calls took 10.5 s (p95), over 10 s"),
        (0, 0, None, None),
    ],
)
def test_it_goes_back_above_the_thresholds_and_not_for_a_few_calls(calls, failures, p95_s, expected):
    p95 = None if p95_s is None else timedelta(seconds=p95_s)

    assert fault(Figures(calls, failures, p95), LIMITS) == expected


@pytest.mark.parametrize(
    ("age", "is_back", "expected"),
    [
        (47 * HOUR, False, ("under_way", 0.1, 1, BEGAN + 48 * HOUR)),
        (47 * HOUR, True, ("taken_back", 0.0, 0, None)),
        (144 * HOUR, False, ("over", 1.0, 3, None)),
    ],
)
def test_people_see_the_share_and_when_it_grows(age, is_back, expected):
    seen = view(FORM, standing(age, is_back=is_back))

    assert (seen.state, seen.share, seen.stage, seen.next_stage_at) == expected
