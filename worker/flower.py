"""Flower, safe by default: behind a password, on loopback and read-only, however it is started.

Flower itself starts open to everybody. These are only defaults: FLOWER_BASIC_AUTH, FLOWER_ADDRESS, FLOWER_READ_ONLY and
Flower's own arguments win. Flower's /metrics and /healthcheck know no password, hence loopback.
"""

import secrets
from pathlib import Path

import flower.options  # noqa: F401 - registers the options
from tornado.options import options

from config.kept_text import kept_text

USER = "operator"


def guard_flower(data: Path) -> None:
    """Set Flower's defaults; call before Flower reads its arguments.

    Args:
        data: The data folder; the password is made once and kept there, in `flower.password`.
    """
    options.basic_auth = [f"{USER}:{flower_password(data)}"]
    options.address = "127.0.0.1"
    options.read_only = True


def flower_password(data: Path) -> str:
    """Return Flower's password, made at first use and readable by its owner only."""
    file = password_file(data)
    if file.exists() and not file.read_text(encoding="ascii").strip():  # its maker was killed: anybody could log in
        file.unlink()
    return kept_text(file, lambda: secrets.token_urlsafe(18))


def password_file(data: Path) -> Path:
    """Return where Flower's password is kept."""
    return data / "flower.password"
