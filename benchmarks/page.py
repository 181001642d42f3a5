"""The page with the figures, `docs/performance.md`: each benchmark writes the part between its own two marks."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def machine(load_before: float) -> dict[str, Any]:
    """Return when and where something was measured, for the results.

    Args:
        load_before: The load average of a minute before it began; other work makes figures worse.
    """
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": psutil.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
            "load_before": round(load_before, 2),
            "load_after": round(os.getloadavg()[0], 2),
        },
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)) + "\n"


def write_section(name: str, command: str, kept: Mapping[str, Any], body: str) -> None:
    """Put a benchmark's text between its marks; what stands around them stays.

    Args:
        kept: What `machine` gave, among others.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(begin)
    where = kept["machine"]
    said = (
        f"Measured {kept['at'][:10]} with `{command}`: {where['cores']} cores, Python {where['python']}, load average "
        f"{where['load_before']} before and {where['load_after']} after.\n\n"
    )
    _PAGE.write_text(f"{before}{begin}\n{said}{body}{end}{rest.partition(end)[2]}", encoding="utf-8")
