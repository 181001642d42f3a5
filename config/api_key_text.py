"""How an API key is written: `entrega_`, 160 random bits and a checksum, all in lower case.

The prefix lets secret scanners find a key that leaked; the checksum tells a key that was mistyped or cut from one that
is not known, without asking anybody.
"""

import base64
import re
import secrets
import zlib

# Shorter ones could be guessed: 24 characters of base64 are 144 bits.
LEAST_BOOTSTRAP = 24

_PREFIX = "entrega_"
_RANDOM_BYTES = 20
_RANDOM_CHARS = 32
_FORM = re.compile(r"entrega_[a-z2-7]{39}")


def new_api_key() -> str:
    """Return a fresh key. Shape: "entrega_" + 32 characters + 7 characters of checksum, base32."""
    random = _base32(secrets.token_bytes(_RANDOM_BYTES))
    return _PREFIX + random + _checksum(random)


def is_whole_api_key(text: str) -> bool:
    """Tell whether a text can be a key of ours: False for one that was mistyped or cut."""
    if not _FORM.fullmatch(text):
        return False
    random = text[len(_PREFIX) :][:_RANDOM_CHARS]
    return text.endswith(_checksum(random))


def _checksum(random: str) -> str:
    return _base32(zlib.crc32(f"{_PREFIX}{random}".encode()).to_bytes(4, "big"))


def _base32(value: bytes) -> str:
    return base64.b32encode(value).decode().rstrip("=").lower()
