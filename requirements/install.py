"""Make a virtual environment that holds exactly the packages of one requirements file.

    python requirements/install.py FOLDER FILE [--project] [--pip VERSION]

pip resolves nothing here: it installs each line of the file as written and checks its hash; `pip check` compares the
result. `--project` adds this project itself, editable. `--pip` takes another pip ("newest" or a version) than the one
that comes with this Python. Prints its own lines only, and pip's last lines when pip fails. A run that does not end
well leaves no folder behind. Needs nothing but the standard library.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

_LAST_LINES = 20
_PINNED = re.compile(r"^[\w.-]+==", re.MULTILINE)
# pip begins one of these lines for each line of the file that it has dealt with.
_TAKEN_UP = ("Collecting ", "Processing ", "Ignoring ", "Requirement already ")


class _Failed(Exception):
    """A step of the installation failed; holds the last lines that it printed."""


class _Progress:
    """One line that is written over on a terminal; elsewhere a line for each quarter."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._live = sys.stdout.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print("\r\x1b[K", end="", flush=True)

    def read(self, line: str) -> None:
        """Take in one line of pip."""
        if line.startswith(_TAKEN_UP):
            self._done += 1
            quarter, before = (4 * done // self._total for done in (self._done, self._done - 1))
            if self._live or quarter > before:
                self.show(f"fetched {self._done} of {self._total} packages")
        elif line.startswith("Installing collected "):
            self.show("unpacking them")

    def show(self, sentence: str) -> None:
        """Tell what is done now."""
        print(f"\r\x1b[K  {sentence}" if self._live else f"  {sentence}", end="" if self._live else "\n", flush=True)


def main() -> int:
    """Install, or say why not; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--project", action="store_true")
    parser.add_argument("--pip")
    asked = parser.parse_args()
    print(f"Making {asked.folder} with Python {sys.version.split()[0]} (about a minute, once)", flush=True)
    try:
        _install(asked)
    except KeyboardInterrupt:
        return _give_up(asked.folder, f"Interrupted: {asked.folder} was removed. Run the same command again.", 130)
    except _Failed as err:
        print(err, file=sys.stderr)
        sentence = (
            f"{asked.folder} could not be made and was removed; the lines above say why. "
            f"Check the network, the proxy and the free disk space, then run the same command again."
        )
        return _give_up(asked.folder, sentence, 1)
    return 0


def _install(asked: argparse.Namespace) -> None:
    ready = asked.folder / ".ready"
    ready.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(asked.folder)])
    pip = [str(asked.folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    exactly = [*pip, "install", "--no-deps", "--progress-bar", "off"]
    if asked.pip:
        _run([*exactly, "--upgrade", "pip" if asked.pip == "newest" else f"pip=={asked.pip}"])
    with _Progress(len(_PINNED.findall(asked.file.read_text()))) as progress:
        _run([*exactly, "--require-hashes", "-r", str(asked.file)], progress.read)
        progress.show("checking that they fit together")
        if asked.project:
            _run([*exactly, "--no-build-isolation", "--editable", "."])
        _run([*pip, "check"])
    ready.touch()


def _run(command: list[str], read: Callable[[str], None] = lambda _: None) -> None:
    # A user install, if it is the default of this person's pip, is impossible within a virtual environment.
    environment = {**os.environ, "PIP_USER": "0"}
    last: deque[str] = deque(maxlen=_LAST_LINES)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
    try:
        for line in process.stdout or ():
            last.append(line)
            read(line)
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
    if process.returncode:
        raise _Failed("".join(last))


def _give_up(folder: Path, sentence: str, code: int) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
