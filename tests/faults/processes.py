"""Faults of processes: killed, stopped, restarted, living at a wrong time.

How the kinds of the design map to this system: the "worker group" is both workers; "one child of it" is one worker,
because its pool are threads, which cannot be killed alone; the supervisor is `entrega up`, here the run itself, and the
kernel takes all its parts with it, so its death is the death of every part at once and a start on what is left.
"""

import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from sandbox.doors import SandboxError
from tests.faults.ground import LEASE_S, WORKERS, Ground

_SHORT_S, _LONG_S, _FROZEN_S = 3.0, LEASE_S + 4.0, 5.0
_SHIFTS_S = (3600.0, -3600.0, 90.0, -90.0)
_SHIFTED_CLOCK = Path(__file__).parent / "shifted_clock"


def _awake(ground: Ground, name: str) -> str:
    """Start a part again when an earlier fault has just killed it: this one is meant to strike something."""
    if not ground.runs(name):
        ground.revive(name)
    return name


def kill_worker(ground: Ground, rng: random.Random) -> str:
    name = _awake(ground, rng.choice(WORKERS))
    ground.kill(name)  # the watch starts it again after a second
    return name


def kill_both_workers(ground: Ground, _: random.Random) -> str:
    for name in WORKERS:
        ground.kill(_awake(ground, name))
    return "both"


def kill_everything(ground: Ground, _: random.Random) -> str:
    """End every part but the stand-ins, which are the outside world, and start on what is left."""
    parts = [name for name in ground.system.parts if name != "standins" and ground.runs(name)]
    for name in reversed(parts):
        ground.kill(name)
    for name in ("postgres", "valkey"):
        ground.revive(name)
    return f"{len(parts)} parts"


@contextmanager
def stood_still(ground: Ground) -> Iterator[None]:
    """Stop both workers for the while of a block."""
    stopped = [ground.process(_awake(ground, name)) for name in WORKERS]
    for each in stopped:
        each.suspend()
    try:
        yield
    finally:
        for each in stopped:
            with suppress(psutil.NoSuchProcess):
                each.resume()


def _suspend(ground: Ground, name: str, seconds: float) -> str:
    process = ground.process(_awake(ground, name))
    process.suspend()

    def go_on() -> None:
        with suppress(psutil.NoSuchProcess):  # killed meanwhile
            process.resume()

    ground.later(seconds, go_on)
    return name


def stop_worker_shortly(ground: Ground, rng: random.Random) -> str:
    return _suspend(ground, rng.choice(WORKERS), _SHORT_S)


def stop_worker_past_its_lease(ground: Ground, rng: random.Random) -> str:
    return _suspend(ground, rng.choice(WORKERS), _LONG_S)


def shift_clock(ground: Ground, rng: random.Random) -> str:
    """Let a worker live at a wrong time, until it is next started again: an hour or 90 seconds, ahead or behind."""
    name, shift_s = rng.choice(WORKERS), rng.choice(_SHIFTS_S)
    worker = ground.child(_awake(ground, name))
    right = worker.command
    path = f"{_SHIFTED_CLOCK}:{(right.env or {}).get('PYTHONPATH', '')}".rstrip(":")
    ground.kill(name)
    worker.command = replace(right, env={**(right.env or {}), "PYTHONPATH": path, "FAULTS_CLOCK_SHIFT_S": str(shift_s)})
    worker.start()
    worker.command = right
    return f"{name} {shift_s:+.0f} s"


def wipe_redis(ground: Ground, _: random.Random) -> str:
    with suppress(Exception):  # it may be frozen or away by an earlier fault
        ground.redis.flushall()
    return "redis"


def restart_redis_empty(ground: Ground, _: random.Random) -> str:
    ground.kill("valkey")
    shutil.rmtree(ground.system.data / "valkey", ignore_errors=True)
    ground.revive("valkey")
    return "redis"


def restart_redis_from_its_file(ground: Ground, _: random.Random) -> str:
    ground.kill("valkey")
    ground.revive("valkey")
    return "redis"


def restart_redis_from_an_old_file(ground: Ground, rng: random.Random) -> str:
    """Bring back messages that were worked on long ago."""
    folder, kept = ground.system.data / "valkey", ground.system.data / "valkey.old"
    if not kept.exists():
        with suppress(shutil.Error):  # a file that is being rewritten: half a snapshot is as good an old one
            shutil.copytree(folder, kept)
        ground.later(4.0, lambda: restart_redis_from_an_old_file(ground, rng))
        return "redis"
    ground.kill("valkey")
    shutil.rmtree(folder, ignore_errors=True)
    kept.rename(folder)
    try:
        ground.revive("valkey")
    except SandboxError:  # torn in the middle of a rewrite: an administrator would start it empty
        return restart_redis_empty(ground, rng)
    return "redis"


def freeze_redis(ground: Ground, _: random.Random) -> str:
    return _suspend(ground, "valkey", _FROZEN_S)


def crash_postgres(ground: Ground, rng: random.Random) -> str:
    ground.kill("postgres")
    ground.later(rng.uniform(0.0, 2.0), lambda: None if ground.runs("postgres") else ground.revive("postgres"))
    return "postgres"


def kill_beat(ground: Ground, _: random.Random) -> str | None:
    if "beat" not in ground.system.parts:  # killed a moment ago
        return None
    ground.kill("beat")
    beat = ground.system.parts.pop("beat")  # the watch must not start it at once
    ground.later(8.0, lambda: (beat.stop(), beat.start(), ground.system.parts.update(beat=beat)))
    return "beat"


def run_two_beats(ground: Ground, _: random.Random) -> str | None:
    if "beat2" in ground.system.parts or "beat" not in ground.system.parts:
        return None
    data = ground.system.data
    beat = ("-m", "celery", "-A", "worker", "beat", f"--schedule={data}/beat2", f"--pidfile={data}/beat2.pid")
    child = ground.add_part("beat2", sys.executable, *beat)
    ground.later(10.0, lambda: (ground.system.parts.pop("beat2", child), child.stop()))
    return "beat"
