"""What a run does, from its seed alone: the commands, the faults, their order and their places among the commands.

The same seed gives the same plan. How it ends in time does not repeat: threads, processes and the machine decide.
"""

import random
from dataclasses import dataclass

_FIRST, _LAST = 0.03, 0.95  # faults strike between these shares of the commands


@dataclass(frozen=True)
class Step:
    """One fault of the plan.

    Attributes:
        at: It strikes when this many commands were handed over.
        seed: Of the fault's own choices.
    """

    at: int
    kind: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """A whole run of one seed."""

    seed: int
    deliveries: int
    steps: tuple[Step, ...]


def make_plan(seed: int, *, deliveries: int, faults: int, kinds: tuple[str, ...]) -> Plan:
    """Return the plan of a seed: every kind once before any comes again, as far as `faults` reach."""
    rng = random.Random(seed)
    bag: list[str] = []
    while len(bag) < faults:
        bag += rng.sample(kinds, len(kinds))
    width = (_LAST - _FIRST) * deliveries / max(1, faults)
    places = [int(_FIRST * deliveries + width * (n + rng.random())) for n in range(faults)]
    steps = [Step(at, kind, rng.randrange(2**32)) for at, kind in zip(places, bag[:faults], strict=True)]
    return Plan(seed, deliveries, tuple(steps))
