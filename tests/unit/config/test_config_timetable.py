"""The beat timetable never lets ticks pile up."""

from datetime import timedelta

import pytest

from config.timetable import TIMETABLE, Tick


def test_the_timetable_wakes_the_upkeep_tasks() -> None:
    rhythm = {tick.task: tick.every.total_seconds() for tick in TIMETABLE}

    assert rhythm == {"sweep": 5, "confirm": 10, "drain": 10, "health": 60}


@pytest.mark.parametrize("tick", TIMETABLE, ids=lambda tick: tick.task)
def test_a_tick_expires_before_the_next_one_is_due(tick: Tick) -> None:
    assert tick.expires <= tick.every


def test_a_tick_that_would_outlive_the_next_one_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed every"):
        Tick("sweep", every=timedelta(seconds=5), expires=timedelta(seconds=6))
