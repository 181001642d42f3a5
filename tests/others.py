"""What another account of this machine could read of ours."""

import os
import stat
import subprocess
from pathlib import Path

_NOBODY = 65534


def readable_by_others(folder: Path) -> list[str]:
    """Return the files below a folder, and the folders it could list, that another account can read.

    Run by root, another account really tries; otherwise the modes say what it could.
    """
    paths = [folder, *folder.rglob("*")]
    if os.geteuid() != 0:
        return [str(each) for each in paths if not each.is_symlink() and _lets_others(each, folder)]
    tries = 'for each; do if [ -r "$each" ]; then printf "%s\\n" "$each"; fi; done'
    found: list[str] = []
    for start in range(0, len(paths), 500):
        done = subprocess.run(
            ["/bin/sh", "-c", tries, "sh", *map(str, paths[start : start + 500])],
            user=_NOBODY, group=_NOBODY, extra_groups=[], capture_output=True, text=True, check=True,
        )  # fmt: skip
        found += done.stdout.splitlines()
    return found


def _lets_others(path: Path, top: Path) -> bool:
    # A folder that others cannot enter closes all below it.
    closed = any(not _bits(each) & 0o011 for each in path.parents if each.is_relative_to(top))
    return not closed and bool(_bits(path) & 0o044)


def _bits(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0
