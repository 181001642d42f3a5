r"""Texts of several lines from outside: the characters that they may hold, and when two of them say the same.

A text holds no control character but line breaks and tabs. Some receivers cut a text at a NUL, refuse the whole
message, or read U+0085 as a line break.

Source: ECMA-48 (C0 and C1 control functions), Unicode 17, UAX #15 (normalization forms), read 2026-11-30.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, JsonValue, ValidationInfo

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What no reader sees: two texts that differ in nothing else are the same message.
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")
_SPACES = re.compile("[\u00a0\u2007\u202f]")


def _text(value: str, info: ValidationInfo) -> str:
    text = value.replace("\r\n", "\n")
    if _CONTROL.search(text) is None:
        return text
    if (info.context or {}).get("stored"):  # accepted before this rule
        return _CONTROL.sub("", text) or "?"
    raise ValueError("control")


def _json(value: JsonValue, info: ValidationInfo) -> JsonValue:
    if isinstance(value, str):
        return _text(value, info)
    if isinstance(value, dict):
        return {_text(name, info): _json(each, info) for name, each in value.items()}
    if isinstance(value, list):
        return [_json(each, info) for each in value]
    return value


Text = Annotated[str, AfterValidator(_text)]
PlainJson = Annotated[JsonValue, AfterValidator(_json)]


def alike(value: Any) -> Any:
    """Return JSON in which texts that look the same are the same: what repeats of a message are recognised by."""
    if isinstance(value, str):
        return _alike(value)
    if isinstance(value, Mapping):
        return {name: alike(each) for name, each in value.items()}
    if isinstance(value, list):
        return [alike(each) for each in value]
    return value


def _alike(text: str) -> str:
    seen = text if text.isascii() else _SPACES.sub(" ", _UNSEEN.sub("", unicodedata.normalize("NFC", text)))
    return seen.replace("\r\n", "\n").strip()
