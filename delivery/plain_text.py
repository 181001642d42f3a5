"""Characters that a line of text may not hold: they end it, hide a part of it, or give orders to a terminal.

Source: ECMA-48 (C0 and C1 control functions; U+009B begins a terminal's orders as ESC [ does); Unicode 17, UAX #9
(bidirectional controls) and section 23.1 (line and paragraph separators); read 2026-11-30.
"""

import re

_NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# A text of several lines keeps its line breaks and tabs.
_NOT_IN_A_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def is_line(text: str) -> bool:
    """Tell whether a text is one line that looks everywhere as it is."""
    return _NOT_IN_A_LINE.search(text) is None


def as_line(text: str) -> str:
    """Return the text without what does not belong in a line."""
    return _NOT_IN_A_LINE.sub("", text)


def shown(text: str, *, escape: str = "\N{REPLACEMENT CHARACTER}") -> str:
    r"""Return a text of one or more lines as a terminal may show it.

    Args:
        escape: What stands for each character that it may not show; filled with its number, e.g. "\u{:04x}".
    """
    return _NOT_IN_A_TEXT.sub(lambda found: escape.format(ord(found[0])), text)
