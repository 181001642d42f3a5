"""The beat timetable never lets ticks pile up."""

from datetime import timedelta

import pytest

from config.settings import load_settings
from config.timetable import TIMETABLE, Tick
from tasks.app import Entrega


def test_the_timetable_wakes_the_upkeep_tasks() -> None:
    rhythm = {tick.task: tick.every.total_seconds() for tick in TIMETABLE}

    assert rhythm == {"sweep": 5, "confirm": 10, "drain": 10, "health": 60, "chain": 60, "purge": 3600}


@pytest.mark.parametrize("tick", TIMETABLE, ids=lambda tick: tick.task)
def test_a_tick_expires_before_the_next_one_is_due(tick: Tick) -> None:
    assert tick.expires <= tick.every


def test_a_tick_that_would_outlive_the_next_one_is_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed every"):
        Tick("sweep", every=timedelta(seconds=5), expires=timedelta(seconds=6))


def test_beat_is_given_the_whole_timetable() -> None:
    app = Entrega("test")
    app.settings = load_settings({})

    schedule = {each["task"]: (each["schedule"], each["options"]) for each in app.conf.beat_schedule.values()}

    assert schedule == {tick.task: (tick.every, {"expires": tick.expires.total_seconds()}) for tick in TIMETABLE}
