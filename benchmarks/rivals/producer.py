"""One producer process: submits to one system as it is told over its standard input, and says when each was accepted.

`python -m benchmarks.rivals.producer MODULE` reads one JSON object a line and answers with one.

Shape: {"do": "versions"} -> {"python": "3.11.7", "celery": "5.7.0"}
Shape: {"do": "prepare"} -> {}
Shape: {"do": "submit", "first": 0, "count": 100, "per_second": null, "at_once": 1, "threads": 1}
    -> {"ids": [...], "began": [...], "accepted": [...]}, seconds of the system-wide monotonic clock
"""

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from types import ModuleType
from typing import Any

from benchmarks.rivals.wire import Message

_TICK_S = 0.1


def main() -> None:
    """Answer until the input ends."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.rivals.{sys.argv[1]}")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(module, json.loads(line))) + "\n")
        answers.flush()


def _answer(module: ModuleType, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    if asked["do"] == "versions":
        return {"python": platform.python_version(), **{name: version(name) for name in module.PACKAGES}}
    if asked["do"] == "prepare":
        if hasattr(module, "prepare"):
            module.prepare()
        return {}
    if asked.get("threads", 1) > 1:
        return _submit_side_by_side(module, asked["first"], asked["count"], asked["per_second"], asked["threads"])
    return _submit(module, asked["first"], asked["count"], asked["per_second"], asked["at_once"])


def _submit(module: ModuleType, first: int, count: int, per_second: float | None, at_once: int) -> Mapping[str, Any]:
    """Submit messages, all at once or at fixed instants, whatever the answers take.

    Args:
        per_second: How many become due in a second; None means as fast as it goes.
        at_once: The most in one call; 1 calls `submit`, more calls `submit_many` with what is due every 100 ms.
    """
    messages = [_message(first + n) for n in range(count)]
    ids: list[str] = []
    began: list[float] = []
    accepted: list[float] = []
    start = time.monotonic()
    while len(ids) < count:
        due = _due(messages, len(ids), start, per_second, at_once)
        begins = time.monotonic()
        ids += _told(module, due, at_once)
        began += [begins] * len(due)
        accepted += [time.monotonic()] * len(due)
    return {"ids": ids, "began": began, "accepted": accepted}


def _submit_side_by_side(
    module: ModuleType, first: int, count: int, per_second: float | None, threads: int
) -> Mapping[str, Any]:
    """Submit messages one by one from several threads, as fast as it goes or at fixed instants."""
    start = time.monotonic()

    def submit(place: int) -> tuple[str, float, float]:
        if per_second is not None:
            time.sleep(max(0.0, start + place / per_second - time.monotonic()))
        begins = time.monotonic()
        return module.submit(_message(first + place)), begins, time.monotonic()

    with ThreadPoolExecutor(threads) as pool:
        ids, began, accepted = zip(*pool.map(submit, range(count)), strict=True)
    return {"ids": ids, "began": began, "accepted": accepted}


def _due(
    messages: Sequence[Message], done: int, start: float, per_second: float | None, at_once: int
) -> Sequence[Message]:
    """Wait until something is due, and return it."""
    if per_second is None:
        return messages[done : done + at_once]
    wait = start + done / per_second + (_TICK_S if at_once > 1 else 0.0) - time.monotonic()
    time.sleep(max(0.0, wait))
    ripe = int((time.monotonic() - start) * per_second) + 1
    return messages[done : max(done + 1, min(ripe, done + at_once))]


def _told(module: ModuleType, messages: Sequence[Message], at_once: int) -> list[str]:
    if at_once > 1:
        return list(module.submit_many(messages))
    return [module.submit(each) for each in messages]


def _message(number: int) -> Message:
    return Message(f"bench-{number:030d}", f"+55119{90_000_000 + number}", f"Seu pedido {number} foi enviado.")


if __name__ == "__main__":
    main()
