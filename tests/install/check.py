"""Installs Entrega and plays its demo as strangers do, in clones of what is committed: `make install-check`.

Short, in CI: the newest Python and pip, a path with spaces, other people's settings, an absent proxy, port 8080 taken,
then the unit tests. Long: also the oldest pip with an empty cache, Ctrl-C during the installation and during the demo,
no network, and an account that is not root with Debian's own Python. The last two need root.
"""

import argparse
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[2]
_OLDEST_PIP = "23.2.1"  # comes with Python 3.11.7; the pins of packages with extras do not hold in it
_SUPPORTED = range(11, 15)
_OUR_LINES = re.compile(
    r"Making \.venv|  (fetched \d+ of \d+ packages|unpacking them|checking that they fit together)$"
)
_PATIENCE_S = 600
_NOWHERE = "http://127.0.0.1:9"
# A machine on which much else is set up, and whose proxy is away.
_OTHERS = {
    "DATABASE_URL": "mysql://shop@db.example.com/shop",
    "REDIS_URL": "amqp://broker.example.com",
    "ENTREGA_ENV": "production",
    "SENTRY_DSN": "https://key@sentry.example.com/1",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), _NOWHERE),
}


class _Failed(Exception):
    """A scenario did not end as it should."""


@dataclass(frozen=True)
class _Clone:
    """A copy of what is committed, in a folder of its own.

    Attributes:
        python: The Python that a person would have; `make` is given its name.
    """

    folder: Path
    python: str

    def make(self, *words: str, before: tuple[str, ...] = (), **variables: str) -> str:
        """Run make and return what it printed; it must succeed."""
        return self.run(*before, "make", *words, f"PYTHON={self.python}", **variables)

    def run(self, *command: str, **variables: str) -> str:
        """Run a command in the clone and return what it printed; it must succeed."""
        done = subprocess.run(
            command, cwd=self.folder, env=_environment(variables), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
        _expect(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return done.stdout

    def interrupted(self, *words: str, when: str) -> None:
        """Run make, and press Ctrl-C once it has printed a word."""
        with (self.folder.parent / "interrupted.log").open("w+") as log:
            process = subprocess.Popen(
                ["make", *words, f"PYTHON={self.python}"], cwd=self.folder, env=_environment({}),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            printed = Path(log.name)
            _wait(lambda: when in printed.read_text() or process.poll() is not None, f"make {words} prints {when!r}")
            os.killpg(process.pid, signal.SIGINT)
            _expect(process.wait(_PATIENCE_S) != 0, f"make {words} succeeded although it was interrupted")
            _expect("Traceback" not in printed.read_text(), printed.read_text())

    def left_running(self) -> list[str]:
        """Return the processes that the demo started and did not end."""
        own = str(self.folder / ".venv")
        return [" ".join(each.info["cmdline"]) for each in psutil.process_iter(["cmdline"]) if own in str(each.info)]


def main(arguments: list[str] | None = None) -> int:
    """Run the scenarios and print a line for each; return 0 when all ended well, else 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--python", default=_newest_python(), help="instead of the newest that is found here")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="entrega-install-") as folder:
        Path(folder).chmod(0o755)
        clone = _clone(Path(folder) / "a path with spaces", asked.python)
        for sentence, scenario in (_SHORT if asked.short else _SHORT | _LONG).items():
            began = time.monotonic()
            try:
                scenario(clone)
            except _Failed as err:
                print(f"FAILED  {sentence}\n{err}", flush=True)
                return 1
            print(f"ok  {sentence} ({time.monotonic() - began:.0f} s)", flush=True)
    return 0


def _installs(clone: _Clone) -> None:
    printed = clone.make("venv", "PIP=newest")
    strange = [line for line in printed.splitlines() if not _OUR_LINES.match(line)]
    _expect(not strange, f"not our own lines: {strange}")


def _plays(clone: _Clone) -> None:
    with _taken_port(8080):
        clone.make("demo", **_OTHERS)
    _expect(not clone.left_running(), f"still running: {clone.left_running()}")


def _unit_tests(clone: _Clone) -> None:
    print(clone.run(".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit")[-200:])


def _oldest_pip(clone: _Clone) -> None:
    old = _clone(clone.folder.parent / "old", sys.executable)
    old.make("venv", f"PIP={_OLDEST_PIP}", PIP_NO_CACHE_DIR="1")
    _unit_tests(old)


def _interrupted_installation(clone: _Clone) -> None:
    cut = _clone(clone.folder.parent / "cut", clone.python)
    cut.interrupted("demo", when="fetched")
    _expect(not (cut.folder / ".venv").exists(), "the interrupted installation left .venv")
    cut.make("demo")


def _interrupted_demo(clone: _Clone) -> None:
    clone.interrupted("demo", when="3. ")
    _expect(not clone.left_running(), f"still running: {clone.left_running()}")
    clone.make("demo")


def _offline(clone: _Clone) -> None:
    clone.make("demo", before=("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"))


def _another_account(clone: _Clone) -> None:
    with _account("entrega-stranger") as (name, home):
        own = _clone(home / "entrega", "/usr/bin/python3")
        shutil.chown(home, name)
        subprocess.run(["chown", "-R", f"{name}:", str(own.folder)], check=True)
        own.make("demo", before=("runuser", "-u", name, "--", "env", f"HOME={home}"))


_SHORT: dict[str, Callable[[_Clone], None]] = {
    "the newest Python and pip install it in a path with spaces, and say nothing but our own lines": _installs,
    "the demo is played beside other settings, an absent proxy and a taken port 8080": _plays,
    "the unit tests pass there": _unit_tests,
}
_LONG: dict[str, Callable[[_Clone], None]] = {
    f"pip {_OLDEST_PIP} installs it with an empty cache, and the unit tests pass": _oldest_pip,
    "an interrupted installation leaves nothing, and is made good by the next": _interrupted_installation,
    "an interrupted demo leaves nothing running, and the next one is played": _interrupted_demo,
    "the demo is played without a network": _offline,
    "an account that is not root installs it with Debian's Python and plays the demo": _another_account,
}


def _clone(folder: Path, python: str) -> _Clone:
    subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(folder)], check=True)
    return _Clone(folder, python)


def _newest_python() -> str:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = (Path(each) / f"python3.{minor}" for each in os.get_exec_path() for minor in _SUPPORTED)
    candidates = (*on_path, *pyenv.glob("3.*/bin/python3"), Path(sys.executable))
    found = {version: str(each) for each in candidates if (version := _version(each))[:1] in {(n,) for n in _SUPPORTED}}
    newest = max(found)
    if newest[0] == sys.version_info.minor:
        print(f"No Python newer than 3.{newest[0]} was found; taking {found[newest]}", flush=True)
    return found[newest]


def _version(python: Path) -> tuple[int, ...]:
    """Return minor and micro version of a Python 3 that can make virtual environments; nothing for anything else."""
    about = "import ensurepip, sys; print(sys.version_info.minor, sys.version_info.micro)"
    try:
        done = subprocess.run([str(python), "-c", about], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(map(int, done.stdout.split()))


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """Without what this process's own virtual environment or a surrounding make has set."""
    own = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV"}}
    return {**own, **variables}


@contextmanager
def _taken_port(port: int) -> Iterator[None]:
    with socket.socket() as taken:
        if taken.connect_ex(("127.0.0.1", port)):  # else somebody else has it, which is as good
            taken.close()
            with socket.create_server(("127.0.0.1", port)):
                yield
        else:
            yield


@contextmanager
def _account(name: str) -> Iterator[tuple[str, Path]]:
    subprocess.run(["useradd", "--create-home", name], check=True)
    try:
        yield name, Path(pwd.getpwnam(name).pw_dir)
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        _expect(time.monotonic() < deadline, f"after {_PATIENCE_S} s still not so: {what}")
        time.sleep(0.1)


def _expect(fulfilled: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not fulfilled:
        raise _Failed(otherwise)


if __name__ == "__main__":
    sys.exit(main())
