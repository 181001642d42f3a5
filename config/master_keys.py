"""The master keys: how they are written, and where the sandbox keeps the one that it makes for itself.

Sealing and opening belong to the ledger; this module only turns text or a file into keys.
"""

import base64
import binascii
import secrets
from pathlib import Path

from config.kept_text import kept_text

KEY_BYTES = 32  # AES-256
ADVICE = 'python -c "import base64,os;print(base64.b64encode(os.urandom(32)).decode())"'


def decoded_keys(listed: str) -> tuple[bytes, ...]:
    """Return the keys of a comma list of base64 texts, in its order.

    Raises:
        ValueError: One of them is not base64 of 32 bytes; tells which by position, never its text.
    """
    keys = tuple(_decoded_key(position, each.strip()) for position, each in enumerate(listed.split(","), start=1))
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice; keep one")
    return keys


def _decoded_key(position: int, text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as err:
        raise ValueError(f"key {position} is not base64; wanted base64 of 32 bytes ({ADVICE})") from err
    if len(key) != KEY_BYTES:
        raise ValueError(f"key {position} has {len(key)} bytes; wanted base64 of exactly 32 ({ADVICE})")
    return key


def kept_keys(file: Path) -> tuple[bytes, ...]:
    """Return the key kept in a file, made on first use and readable by its owner only.

    Raises:
        OSError: The file cannot be read, written or protected.
        ValueError: The file holds no key.
    """
    return decoded_keys(kept_text(file, _new_key))


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
