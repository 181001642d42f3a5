"""`requirements/install.py`, which `make` runs first on a new machine: with packages of our own and no network."""

import base64
import hashlib
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_PROGRAM = Path(__file__).parents[3] / "requirements" / "install.py"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


@pytest.fixture
def offline(wheels: Path) -> dict[str, str]:
    """The environment of a person whose pip knows no index, and who usually installs for the user alone."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return {**own, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_USER": "1"}


def _wheel(folder: Path, name: str, *needs: str) -> str:
    """Make a package and return its line for a requirements file."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {file: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for file, text in files.items()}
    record = "".join(f"{file},sha256={digest.decode().rstrip('=')},\n" for file, digest in digests.items())
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(file, text)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def _start(folder: Path, lines: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    file = folder / "lines.txt"
    file.write_text(lines)
    command = [sys.executable, str(_PROGRAM), "a venv", str(file)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def _run(folder: Path, lines: str, environment: dict[str, str]) -> tuple[int, list[str], str]:
    with _start(folder, lines, environment) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), err


def test_a_good_installation_prints_its_own_lines_alone(tmp_path, wheels, offline):
    lines = _wheel(wheels, "one_thing", "other_thing") + _wheel(wheels, "other_thing")

    code, out, err = _run(tmp_path, lines, offline)

    assert (code, err) == (0, "")
    assert out == [
        f"Making a venv with Python {sys.version.split()[0]} (about a minute, once)",
        "  fetched 1 of 2 packages",
        "  fetched 2 of 2 packages",
        "  unpacking them",
        "  checking that they fit together",
    ]
    assert (tmp_path / "a venv" / ".ready").exists()


def test_a_package_that_was_changed_ends_with_pips_last_lines_and_what_to_do(tmp_path, wheels, offline):
    _wheel(wheels, "one_thing")

    code, _, err = _run(tmp_path, "one_thing==1.0 --hash=sha256:" + "0" * 64, offline)

    assert code == 1
    assert "DO NOT MATCH THE HASHES" in err
    assert err.splitlines()[-1].startswith("a venv could not be made and was removed; the lines above say why. Check")
    assert not (tmp_path / "a venv").exists()


def test_a_file_that_lacks_a_line_is_never_taken_for_ready(tmp_path, wheels, offline):
    lines = _wheel(wheels, "one_thing", "other_thing")

    code, _, err = _run(tmp_path, lines, offline)

    assert code == 1
    assert "one-thing 1.0 requires other-thing, which is not installed." in err.replace("_", "-")
    assert not (tmp_path / "a venv").exists()


@pytest.fixture
def silent_index() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def test_an_interrupted_installation_leaves_nothing_that_looks_ready(tmp_path, offline, silent_index):
    index = f"http://127.0.0.1:{silent_index.getsockname()[1]}/"
    online = {**offline, "PIP_NO_INDEX": "0", "PIP_INDEX_URL": index, "PIP_RETRIES": "0"}
    process = _start(tmp_path, "one_thing==1.0 --hash=sha256:" + "0" * 64, online)
    pip, _ = silent_index.accept()
    with pip:
        pip.recv(1)  # pip waits for an answer now

        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

        assert err == "Interrupted: a venv was removed. Run the same command again.\n"
        assert process.returncode == 130
        assert not (tmp_path / "a venv").exists()
        pip.settimeout(30)
        assert pip.recv(65536) is not None  # the request
        assert pip.recv(1) == b""  # pip has ended too
