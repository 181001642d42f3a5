"""The beat timetable: which task is woken how often. Data only.

All state lives in Postgres, so two beats, or none for ten minutes, harm nothing: each task takes up what is due.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Tick:
    """One entry of the timetable.

    Attributes:
        task: Name of the Celery task.
        every: Time from one tick to the next.
        expires: A tick that waited longer is dropped, so that ticks do not pile up while no worker runs.
    """

    task: str
    every: timedelta
    expires: timedelta

    def __post_init__(self) -> None:
        if self.expires > self.every:
            raise ValueError(f"tick {self.task}: expires ({self.expires}) must not exceed every ({self.every})")


# Source: Celery 5.7 with Redis, "Beat", measured 2026-11-22: static ticks with expires no longer than the interval.
TIMETABLE = (
    Tick("sweep", every=timedelta(seconds=5), expires=timedelta(seconds=5)),
    Tick("confirm", every=timedelta(seconds=10), expires=timedelta(seconds=10)),
    Tick("drain", every=timedelta(seconds=10), expires=timedelta(seconds=10)),
    Tick("health", every=timedelta(seconds=60), expires=timedelta(seconds=60)),
    Tick("chain", every=timedelta(seconds=60), expires=timedelta(seconds=60)),
    Tick("purge", every=timedelta(hours=1), expires=timedelta(minutes=10)),
)
