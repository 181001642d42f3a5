"""Hides people and secrets in anything that leaves the ledger: logs, errors, traces, operator views.

Two nets, because each has holes: `mask_text` finds what can be recognised by its form (addresses, numbers, tokens),
`mask_value` also hides fields by their name (a person's name has no form). This module keeps nothing and decides
nothing; ids, hashes, instants and ports pass unchanged, or no fault could be traced.

Source: the user's API specification, section 8.1 (the masked shapes), read 2026-11-22.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any
from uuid import UUID

from delivery.recognition import HIDDEN, mask_recipient, mask_secret, mask_text, names_a_person

__all__ = ["JsonLike", "mask_recipient", "mask_text", "mask_value", "names_a_person"]

JsonLike = None | bool | int | float | str | list["JsonLike"] | dict[str, "JsonLike"]

_MOST_ITEMS = 500
_DEEPEST = 12
# No person's number has seven digits or fewer.
_SHORTEST_NUMBER = 10_000_000


def mask_value(value: object) -> JsonLike:
    """Return a JSON-like copy, masked by value and by field name; the original is not touched.

    Args:
        value: Any mixture of mappings, sequences and scalars. Other objects become their masked text.

    Shape: {"email": "j***@empresa.com", "telefone": "+55119999****", "token": "eyJ***...***xyz", "nome": "***"}
    """
    return _walk(value, _mask_scalar, _DEEPEST)


_Leaf = Callable[[object], JsonLike]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RECIPIENT_NAMES = _words(
    "email e_mail mail telefone celular phone phone_number mobile msisdn to cc bcc from from_ recipient "
    "recipients recipient_id wa_id reply_to destinatario"
)
_PRIVATE_NAMES = _words(
    "nome nome_completo full_name first_name last_name display_name sobrenome cpf cnpj rg cargo empresa "
    "observacoes observacao notas notes endereco data_nascimento birthdate body text caption html subject "
    "assunto mensagem content attachments inline variables payload args kwargs argsrepr kwargsrepr cookie "
    "set_cookie cookies cartao card"
)
_SECRET_NAMES = _words(
    "authorization proxy_authorization password passwd pwd senha secret token api_key apikey x_api_key "
    "credential credentials private_key master_keys signature sig appsecret_proof code_verifier assertion"
)
_SECRET_ENDINGS = ("_token", "_secret", "_password", "_senha", "_api_key", "_apikey", "_private_key")


def _walk(value: object, leaf: _Leaf, depth: int) -> JsonLike:
    if value is None or isinstance(value, str | int | float):
        return leaf(value)
    if depth == 0:
        return HIDDEN
    if isinstance(value, Mapping):
        return _walk_mapping(value, leaf, depth)
    if isinstance(value, list | tuple | set | frozenset):
        return _walk_items(value, leaf, depth)
    return leaf(value)


def _walk_mapping(value: Mapping[Any, object], leaf: _Leaf, depth: int) -> JsonLike:
    walked: dict[str, JsonLike] = {}
    for key, each in islice(value.items(), _MOST_ITEMS):
        shown, own = _field(key if isinstance(key, str) else str(key))
        # Whatever lies below a private field is private.
        walked[shown] = _walk(each, own if leaf is _mask_scalar else leaf, depth - 1)
    if len(value) > _MOST_ITEMS:
        walked["..."] = f"{len(value) - _MOST_ITEMS} more withheld"
    return walked


def _walk_items(value: Iterable[object], leaf: _Leaf, depth: int) -> JsonLike:
    items = list(value)
    walked = [_walk(each, leaf, depth - 1) for each in items[:_MOST_ITEMS]]
    if len(items) > _MOST_ITEMS:
        walked.append(f"... {len(items) - _MOST_ITEMS} more withheld")
    return walked


@lru_cache(1024)  # every log line has the same names
def _field(name: str) -> tuple[str, _Leaf]:
    """Return how a field's name is shown, and what masks its values."""
    return name if name.replace("_", "").isalpha() else mask_text(name), _leaf_for(_snake(name))


def _leaf_for(word: str) -> _Leaf:
    if word in _SECRET_NAMES or word.endswith(_SECRET_ENDINGS):
        return _mask_secret_leaf
    if word in _RECIPIENT_NAMES:
        return _mask_recipient_leaf
    return _mask_private_leaf if word in _PRIVATE_NAMES else _mask_scalar


def _snake(name: str) -> str:
    if name.islower() and "-" not in name:
        return name
    spaced = name if name.islower() or name.isupper() else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return spaced.strip().lower().replace("-", "_")


def _mask_scalar(value: object) -> JsonLike:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        masked = mask_text(str(value)) if abs(value) >= _SHORTEST_NUMBER else ""
        return masked if "*" in masked else value
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, UUID | datetime | date | timedelta):
        return str(value)
    return mask_text(str(value))


def _mask_private_leaf(value: object) -> JsonLike:
    return value if value is None or isinstance(value, bool) else HIDDEN


def _mask_recipient_leaf(value: object) -> JsonLike:
    return mask_recipient(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _mask_secret_leaf(value: object) -> JsonLike:
    return mask_secret(value.rpartition(" ")[2]) if isinstance(value, str) else _mask_private_leaf(value)
