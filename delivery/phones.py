"""Phone numbers, as commands carry them: one form, E.164, and only numbers that some country gives out.

The library decides. Its reading of any text takes some sixty microseconds, so a number that is already written in E.164
and that its country gives out for mobiles is recognised by one pattern, made of the library's own.
"""

import re
from functools import cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberDesc

_WRITTEN = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_NOBODY = "(?!)"


def e164(text: str) -> str:
    """Return a phone number in E.164.

    Raises:
        ValueError: It has no country code, or nobody has such a number.
    """
    if _is_plain_mobile(text):
        return text
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException as err:
        raise ValueError("phone") from err
    if not text.startswith("+") or not phonenumbers.is_valid_number(number):
        raise ValueError("phone")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _is_plain_mobile(text: str) -> bool:
    if not _WRITTEN.fullmatch(text):
        return False
    code = next((int(text[1:end]) for end in (2, 3, 4) if int(text[1:end]) in COUNTRY_CODE_TO_REGION_CODE), None)
    return code is not None and _mobiles(code).fullmatch(text, 1 + len(str(code))) is not None


@cache
def _mobiles(code: int) -> re.Pattern[str]:
    """Return what follows the country code in mobile numbers that the library would return unchanged."""
    country = PhoneMetadata.metadata_for_region_or_calling_code(code, COUNTRY_CODE_TO_REGION_CODE[code][0])
    if country is None:
        return re.compile(_NOBODY)
    # Where a prefix for calls inside the country may be meant, the library takes it off: that is left to it.
    prefix = country.national_prefix_for_parsing
    abroad = f"(?!0|{prefix})" if prefix else "(?!0)"
    # Of countries that share a code, the library asks the first one first.
    own = f"(?={country.leading_digits or ''})"
    return re.compile(abroad + own + _only(country.general_desc) + _only(country.mobile) + r"\d+")


def _only(kind: PhoneNumberDesc | None) -> str:
    """Return a look-ahead that holds for whole numbers of one kind alone."""
    if kind is None or kind.national_number_pattern is None:
        return _NOBODY
    lengths = "|".join(rf"\d{{{each}}}" for each in kind.possible_length)
    return rf"(?=(?:{kind.national_number_pattern})\Z)" + (rf"(?=(?:{lengths})\Z)" if lengths else "")
