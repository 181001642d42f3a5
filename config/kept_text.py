"""A secret that this machine makes once and keeps in a file of its own, readable by its owner only."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def kept_text(file: Path, make: Callable[[], str]) -> str:
    """Return the line kept in a file; at the first call it is made and written.

    Raises:
        OSError: The file cannot be read, written or protected.
    """
    if not file.exists():
        _keep(file, make())
    file.chmod(0o600)
    return file.read_text(encoding="ascii").strip()


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
            out.write(text + "\n")
            out.flush()
            os.fsync(out.fileno())
        # A link appears whole and never replaces: of two processes that start together, one text wins.
        os.link(draft, file)
    except FileExistsError:
        return
    finally:
        draft.unlink(missing_ok=True)
