"""Sealing: personal data leaves this module only as ciphertext or as a keyed hash.

Three layers. The master keys come from the environment; the first one seals, all of them open. Each person has a data
key of its own, wrapped by a master key, so that erasing one person is erasing one row. Every ciphertext is bound to the
row and column it was written for, so it cannot be moved. Source: NIST SP 800-38D (AES-GCM, 96-bit random nonces).
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12
_KEY_BYTES = 32
_NAME_BYTES = 4


class Unreadable(ValueError):
    """A ciphertext cannot be opened: wrong key, wrong place or changed bytes."""


def seal(key: bytes, plain: bytes, place: str) -> bytes:
    """Encrypt and bind to a place.

    Args:
        key: 32 bytes.
        plain: What to hide.
        place: Where the ciphertext will live, e.g. "payloads.body/<id>".

    Shape: nonce (12 bytes), ciphertext, tag (16 bytes).
    """
    return _sealed(AESGCM(key), plain, place)


def unseal(key: bytes, sealed: bytes, place: str) -> bytes:
    """Decrypt what `seal` made for the same key and place.

    Raises:
        Unreadable: The key or the place differs, or the bytes were changed.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
    except (InvalidTag, ValueError) as err:
        raise Unreadable(f"a sealed value at {place.split('/', maxsplit=1)[0]} cannot be opened with its key") from err


def keyed_hash(key: bytes, text: str) -> bytes:
    """Return a 32-byte HMAC-SHA256: equal for equal text, and of no use without the key."""
    return hmac.digest(key, text.encode(), "sha256")


@dataclass(frozen=True)
class MasterKeys:
    """The master keys; the first wraps, every one unwraps.

    Attributes:
        keys: 32 bytes each, newest first.
    """

    keys: Sequence[bytes]

    def wrap(self, key: bytes, place: str) -> bytes:
        """Seal a data key. Shape: name of the master key (4 bytes), then as `seal`."""
        name, cipher = self._first
        return name + _sealed(cipher, key, place)

    def unwrap(self, wrapped: bytes, place: str) -> bytes:
        """Open a wrapped data key.

        Raises:
            Unreadable: No master key at hand wrapped it, or it was moved or changed.
        """
        wanted = wrapped[:_NAME_BYTES]
        for key in self.keys:
            if hmac.compare_digest(_name(key), wanted):
                return unseal(key, wrapped[_NAME_BYTES:], place)
        raise Unreadable("a data key was wrapped by a master key that is not in ENTREGA_MASTER_KEYS")

    @property
    def first_name(self) -> bytes:
        """How values begin that the first key wraps."""
        return self._first[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What tells the keys apart and says nothing of them, newest first."""
        return tuple(_name(key).hex() for key in self.keys)

    @cached_property
    def _first(self) -> tuple[bytes, AESGCM]:
        return _name(self.keys[0]), AESGCM(self.keys[0])

    def __repr__(self) -> str:
        """Tell how many keys there are, never a key."""
        return f"MasterKeys({len(self.keys)} keys)"


def new_data_key() -> bytes:
    """Return 32 random bytes."""
    return secrets.token_bytes(_KEY_BYTES)


def _sealed(cipher: AESGCM, plain: bytes, place: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, plain, place.encode())


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"entrega master key name" + key).digest()[:_NAME_BYTES]
