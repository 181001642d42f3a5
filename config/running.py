"""Where the system that runs on this machine answers: `entrega up` writes it down, every other process reads it.

So a second terminal, a producer or `celery -A worker worker` in the same folder finds the embedded servers without any
variable set. What the environment says always wins. The folder in which its processes count is cleared here too.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

_NAME = "running.json"
_CLOCK_SLACK_S = 1.0


def announce(data: Path, variables: Mapping[str, str]) -> None:
    """Write down where this process's system answers, readable by its owner only.

    Args:
        data: The data folder.
        variables: Environment variables by name, e.g. {"DATABASE_URL": "postgresql://..."}.
    """
    file = data / _NAME
    draft = file.with_suffix(".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump({"pid": os.getpid(), "born": _born(os.getpid()), "variables": dict(variables)}, out)
    draft.replace(file)


def retract(data: Path) -> None:
    """Take back what `announce` wrote, and only that: another process may have announced its own system since."""
    file = data / _NAME
    with suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(file.read_text())["pid"] == os.getpid():
            file.unlink()


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment for a process of ours: what stands in our own, and these variables over it."""
    return {**os.environ, **variables}


def announced(data: Path) -> Mapping[str, str]:
    """Return the variables of the system that runs here; empty when none does, or its parent process has ended."""
    try:
        found = json.loads((data / _NAME).read_text())
        # The same pid may by now be another process, above all in a container; its birth tells.
        if abs(_born(int(found["pid"])) - float(found["born"])) > _CLOCK_SLACK_S:
            return {}
        return {str(name): str(value) for name, value in found["variables"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, psutil.Error):
        return {}


def clear_metrics_folder(folder: Path) -> None:
    """Make the folder ready for a new start of the whole system; Prometheus understands counters that begin again.

    Only for the starter, before any process counts: the files of finished processes are otherwise kept for ever.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for each in folder.glob("*.db"):
        each.unlink(missing_ok=True)


def _born(pid: int) -> float:
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(pid)
    return process.create_time()
