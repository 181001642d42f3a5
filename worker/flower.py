"""Flower, safe by default: behind a password, on loopback and read-only, however it is started.

Flower itself starts open to everybody. These are only defaults: FLOWER_BASIC_AUTH, FLOWER_ADDRESS, FLOWER_READ_ONLY and
Flower's own arguments win. Flower's /metrics and /healthcheck know no password, hence loopback.
"""

import secrets
from pathlib import Path

import flower.options  # noqa: F401 - registers the options
from tornado.options import options

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
    file = data / "flower.password"
    if not file.exists():
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(18))
    return file.read_text().strip()
