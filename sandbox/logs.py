"""Keeps the logs of child processes from filling the disk: each is copied aside and emptied when it has grown enough.

The children go on writing to the same open file, so it must be opened for appending, as `sandbox.children` does. A line
that is written between copy and emptying may be lost.
"""

import os
import shutil
from pathlib import Path

_MOST_BYTES = 10_000_000


def rotate_logs(data: Path, *, most_bytes: int = _MOST_BYTES) -> None:
    """Copy each log of a data folder that is longer than this to `NAME.log.1`, over the last one, and empty it."""
    for file in (*data.glob("*.log"), *(data / "logs").glob("*.log")):
        if file.stat().st_size > most_bytes:
            draft = file.with_suffix(".log.draft")
            shutil.copy(file, draft)  # with its rights
            draft.replace(file.with_suffix(".log.1"))
            os.truncate(file, 0)
