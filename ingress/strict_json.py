"""JSON as RFC 8259 and 7493 mean it: what two parsers could read differently is refused instead of guessed.

Refused are: other encodings than UTF-8, a byte order mark, duplicate names, NaN and infinities, numbers that do not
fit, lone surrogates, deep nesting, more values than asked for and anything after the value. Messages never quote the
text. Values are counted before anything is parsed, because parsing a million of them stops a whole process.
"""

import json
import math
import re
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

MOST_VALUES = 50_000

_DEEPEST = 32
_LONGEST_NUMBER = 64
_NOTHING = (None,)  # an empty list is a level of its own
# A text to its end, which may be missing; or what a value stands behind. Possessive: no text makes it go back.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{,]', re.DOTALL)
_QUOTE = ord('"')
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnacceptableJson(ValueError):
    """A text is no JSON, or JSON that could be read in two ways.

    Attributes:
        why: A few words in Portuguese and in English.
    """

    def __init__(self, portuguese: str, english: str) -> None:
        super().__init__(english)
        self.why = (portuguese, english)


def parse_json(raw: bytes, *, whole_texts: bool = True, most_values: int = MOST_VALUES) -> Any:
    """Return the value that a UTF-8 text stands for.

    Args:
        most_values: Values in all, those in lists and objects included.
        whole_texts: False lets half surrogate pairs pass, for texts that others wrote and that are cleaned afterwards.

    Raises:
        UnacceptableJson: See the module.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise UnacceptableJson("marca de ordem de bytes (BOM)", "byte order mark")
    check_count(raw, most_values)
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise UnacceptableJson(f"não é UTF-8 no byte {err.start}", f"not UTF-8 at byte {err.start}") from None
    except json.JSONDecodeError as err:
        place = f"{err.lineno}:{err.colno}"
        raise UnacceptableJson(f"erro em {place} (linha:coluna)", f"error at {place} (line:column)") from None
    except RecursionError:
        raise _too_deep() from None
    _check(value, whole_texts=whole_texts)
    return value


def check_count(raw: bytes, most: int) -> None:
    """Refuse a text with more values, without parsing it.

    Each value but the first stands behind a comma or an opening bracket. Those inside of texts are left out only where
    there are enough of them to matter. No valid text has more than four tokens for each value; the parser stops at the
    first error of any other.

    Raises:
        UnacceptableJson: There are more.
    """
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") < most:
        return
    tokens = islice(_TOKEN.finditer(raw), 4 * most)
    if sum(raw[each.start()] != _QUOTE for each in tokens) >= most:
        raise UnacceptableJson(f"mais de {most} valores", f"more than {most} values")


def check_value(value: object) -> None:
    """Refuse what no JSON text stands for, in a value that something else has parsed.

    Raises:
        UnacceptableJson: It holds half a surrogate pair, NaN or an infinity, or is nested too deep.
    """
    _check(value, whole_texts=True)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnacceptableJson("nome repetido em um objeto", "a name stands twice in one object")
    return found


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise UnacceptableJson("número grande demais", "a number is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise UnacceptableJson("número grande demais", "a number is too large")
    return int(text)


def _constant(_text: str) -> None:
    raise UnacceptableJson("NaN e Infinity não são JSON", "NaN and Infinity are no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_integer, parse_constant=_constant
)  # fmt: skip


def _check(value: object, *, whole_texts: bool) -> None:
    """Walk the value level by level, so that no depth can exhaust the stack."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [below for each in level for below in _below(each, whole_texts=whole_texts)]
    if level:
        raise _too_deep()


def _below(value: object, *, whole_texts: bool) -> Iterable[object]:
    if isinstance(value, str):
        if whole_texts:
            _check_text(value)
        return ()
    if isinstance(value, dict):
        return chain(value.keys(), value.values()) if value else _NOTHING
    if isinstance(value, list):
        return value or _NOTHING
    if isinstance(value, float) and not math.isfinite(value):
        _constant("")
    return ()


def _too_deep() -> UnacceptableJson:
    return UnacceptableJson(f"mais de {_DEEPEST} níveis", f"nested deeper than {_DEEPEST}")


def _check_text(text: str) -> None:
    if not text.isascii() and _SURROGATE.search(text):
        raise UnacceptableJson("metade de um par substituto", "half a surrogate pair is no character")
