"""What processes use: CPU time and memory, with all their children."""

import threading
from collections.abc import Iterable, Mapping

import psutil

_EVERY_S = 1.0
_MIB = 1024 * 1024


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes and of their children, those that have ended included."""
    return sum(_cpu_of(each) for each in _families(pids))


def memory_mib(pids: Iterable[int]) -> float:
    """Return the memory of processes and their children; what several share is counted once (Linux: PSS)."""
    return sum(_memory_of(each) for each in _families(pids)) / _MIB


class MemoryWatch(threading.Thread):
    """Looks every second, and once at the end, and keeps the look with the most in all.

    Attributes:
        most: MiB by role.
    """

    def __init__(self, roles: Mapping[str, Iterable[int]]) -> None:
        super().__init__(daemon=True)
        self._roles = roles
        self._ended = threading.Event()
        self.most: Mapping[str, float] = {}

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.wait(_EVERY_S):
            self._look()

    def end(self) -> Mapping[str, float]:
        """Look once more and return the most."""
        self._ended.set()
        self.join()
        self._look()
        return self.most

    def _look(self) -> None:
        seen = {role: memory_mib(pids) for role, pids in self._roles.items()}
        if sum(seen.values()) > sum(self.most.values()):
            self.most = seen


def _families(pids: Iterable[int]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for pid in pids:
        try:
            leader = psutil.Process(pid)
            found += [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _cpu_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    # Linux adds an ended child to its parent; elsewhere psutil says 0.
    return float(times.user + times.system + times.children_user + times.children_system)


def _memory_of(process: psutil.Process) -> float:
    try:
        full = process.memory_full_info()
        return float(getattr(full, "pss", full.rss))
    except psutil.NoSuchProcess:
        return 0.0
    except psutil.AccessDenied:
        return float(process.memory_info().rss)
