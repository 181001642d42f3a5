"""Steps of a first day that harmed a running system: a second start, a copied folder, a machine without the keys."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.attacks.target import Target, Verdict

_WITHIN_S = 25
_SECRET_PARTS = ("DATABASE_URL", "REDIS_URL")
# What a second start once deleted, or a second system would write.
_FILES = ("running.json", "running.lock", "children.json", "standins.addresses.json", "master.key", "environment")


def second_up(target: Target) -> Verdict:
    """A second `entrega up` in the folder of the running system, on another port."""
    before = _files(target.folder)
    code, said = _run("entrega", "up", "--sandbox", folder=target.folder, ENTREGA_PORT="0")
    touched = [name for name, content in before.items() if _files(target.folder)[name] != content]
    happened = f"exit code {code}, {len(touched)} files touched, {'named' if target.url in said else 'not named'}"
    passed = code != 0 and not touched and target.url in said
    return Verdict("a second `up` in the folder", happened, "refused, nothing touched, address named", passed)


def copied_folder(target: Target) -> Verdict:
    """Commands in a copy of the running system's folder, one of them harmful."""
    with _folder() as folder:
        copy = folder / "copy"
        shutil.copytree(target.folder, copy, ignore=shutil.ignore_patterns("postgres", "*.sock", "valkey"))
        codes = [
            _run("entrega", *words, folder=copy)[0]
            for words in (("deliveries",), ("pause", "--all", "--reason", "meant for the copy"))
        ]
    paused = target.sql("SELECT count(*) FROM switches")[0][0]
    happened = f"exit codes {codes}, the original is {'paused' if paused else 'untouched'}"
    return Verdict("commands in a copied folder", happened, "none reaches the original", 0 not in codes and not paused)


def keyless_worker(target: Target) -> Verdict:
    """A worker on a second machine that knows the servers and not the master keys."""
    servers = {name: target.system.variables[name] for name in _SECRET_PARTS}
    with _folder() as folder:
        code, said = _run("celery", "-A", "worker", "worker", folder=folder, **servers)
        made = (folder / "master.key").exists()
    happened = f"exit code {code}, {'a key was made' if made else 'no key was made'}"
    passed = code not in {0, None} and not made and "worker_ready" not in said
    return Verdict("a worker without the master keys", happened, "stops at once, takes no message", passed)


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in _FILES}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="entrega-attack-") as name:
        yield Path(name)


def _run(program: str, *words: str, folder: Path, **variables: str) -> tuple[int | None, str]:
    """Run a program of ours; return its exit code, None where it had to be ended, and what it printed."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(program)), *words],
        env=os.environ | {"ENTREGA_DATA": str(folder)} | variables,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        return process.wait(_WITHIN_S), process.communicate()[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        return None, process.communicate()[0]


ATTACKS = (second_up, copied_folder, keyless_worker)
