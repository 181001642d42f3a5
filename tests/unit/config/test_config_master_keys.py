"""The master key of the sandbox is made once, and only its owner may read it."""

import base64
import os
from pathlib import Path

import pytest

from config.master_keys import kept_keys
from config.server_urls import is_loopback

KEY = base64.b64encode(bytes(range(32))).decode()


def test_of_two_processes_that_start_together_one_key_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def other_process_was_faster(_: Path, target: Path) -> None:
        target.write_text(KEY, encoding="ascii")
        raise FileExistsError

    monkeypatch.setattr(os, "link", other_process_was_faster)

    keys = kept_keys(tmp_path / "master.key")

    assert keys == (bytes(range(32)),)
    assert list(tmp_path.iterdir()) == [tmp_path / "master.key"]


def test_a_kept_key_that_others_may_read_is_closed_again(tmp_path: Path) -> None:
    kept = tmp_path / "master.key"
    first = kept_keys(kept)
    kept.chmod(0o644)

    again = kept_keys(kept)

    assert again == first
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),  # noqa: S104 - the point of the case: every interface is not loopback
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback
