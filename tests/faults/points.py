"""Faults at named points of a worker, or of a producer: see `worker.failpoints`."""

import random
from collections.abc import Callable
from typing import Literal, get_args

from tests.faults.ground import Ground
from worker.failpoints import Point

Strike = Callable[[Ground, random.Random], str | None]
WORKER_POINTS: tuple[Point, ...] = ("after_claim", "before_send", "after_send", "before_settle", "after_commit")
ACCEPT_POINTS: tuple[Point, ...] = ("before_accept", "after_accept")
POINTS: tuple[Point, ...] = get_args(Point)


def at_point(point: Point, action: Literal["exit", "fail"]) -> Strike:
    """Return the fault that ends or deceives the next worker that passes a point."""

    def strike(ground: Ground, _: random.Random) -> str:
        ground.arm(ground.failpoints, point, action)
        return point

    return strike


def producer_deceived(point: Point) -> Strike:
    """Return the fault that lets a producer believe that the ledger is away, before or after it accepted."""

    def strike(ground: Ground, _: random.Random) -> str:
        ground.arm(ground.own_failpoints, point, "fail")
        return point

    return strike
