"""The fields that commands are made of: one type for each sort of value, at every door.

A value that does not fit is refused with a word of `delivery.wording`. One that was accepted before a rule was made is
made to fit instead, or left as it is: see `STORED`.
"""

import base64
import re
import unicodedata
from functools import lru_cache
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES
from pydantic import (
    AfterValidator,
    Base64Encoder,
    BeforeValidator,
    EncodedBytes,
    Field,
    HttpUrl,
    StringConstraints,
    ValidationInfo,
)

from delivery.phones import e164
from delivery.plain_text import as_line, is_line

# Business-scoped user id. Source: WhatsApp Business-scoped user IDs, edition of 2026-06-29, read 2026-11-22.
_BSUID = re.compile(r"[A-Z]{2}\.[A-Za-z0-9]{1,128}")
# Nearly every address: its domain is asked of the library once, which takes most of the time that a command takes.
# Source: RFC 5322, section 3.2.3, dot-atom; RFC 5321, section 4.5.3.1.1, 64 octets; read 2026-11-22.
_PLAIN_LOCAL = re.compile(r"(?=.{1,64}$)[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
# Validation context of a command that was accepted before: what was allowed then is made to fit.
STORED = {"stored": True}
_MOST_FILE_BYTES = 10_000_000
# A line of a mail's head holds 998 characters. Source: RFC 5322, section 2.1.1, read 2026-11-22.
_LONGEST_URL = 900


def _new_email_address(value: str, info: ValidationInfo) -> str:
    address = _email_address(value)
    if not address.isascii() and info.context != STORED and not all(map(_is_latin, address)):
        raise ValueError("email_letters")
    return address


def _is_latin(character: str) -> bool:
    """Tell whether a character is ASCII, or an ASCII letter with accents, which is what registro.br takes.

    Other alphabets hold letters that look like these, so that an address could read like one that it is not.
    """
    parts = unicodedata.normalize("NFD", character)
    return parts[0].isascii() and all(map(unicodedata.combining, parts[1:]))


def _email_address(value: str) -> str:
    local, _, domain = value.strip().rpartition("@")
    try:
        if _PLAIN_LOCAL.fullmatch(local) and domain.isascii() and local.lower() not in CASE_INSENSITIVE_MAILBOX_NAMES:
            return f"{local}@{_email_domain(domain)}"
        return _validated(value.strip())
    except EmailNotValidError as err:
        raise ValueError("email") from err


def _validated(address: str) -> str:
    return validate_email(address, check_deliverability=False, allow_smtputf8=False, strict=True).normalized


@lru_cache(maxsize=4096)
def _email_domain(domain: str) -> str:
    return _validated(f"x@{domain}").rpartition("@")[2]


def _whatsapp_recipient(value: str) -> str:
    return value if _BSUID.fullmatch(value) else e164(value)


def _one_line(value: str, info: ValidationInfo) -> str:
    if is_line(value):
        return value
    if info.context == STORED:
        return as_line(value) or "?"
    raise ValueError("one_line")


class _PlainBase64(Base64Encoder):
    """Base64 of RFC 4648, section 4, spaces and line breaks apart: the usual decoder drops what it does not know."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        try:
            found = base64.b64decode(b"".join(data.split()), validate=True)
        except ValueError:
            raise ValueError("base64") from None
        if len(found) > _MOST_FILE_BYTES:
            raise ValueError(f"file_size:{_MOST_FILE_BYTES}")
        return found


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _filling(value: str, info: ValidationInfo) -> str:
    # Meta refuses the whole message. Source: WhatsApp Cloud API, template components, Sep-2026, read 2026-11-22.
    if "     " in value and info.context != STORED:
        raise ValueError("spaces")
    return value


def _fits_a_header(value: HttpUrl, info: ValidationInfo) -> HttpUrl:
    if len(str(value)) > _LONGEST_URL and info.context != STORED:
        raise ValueError(f"url_long:{_LONGEST_URL}")
    return value


EmailAddress = Annotated[str, Field(max_length=254), AfterValidator(_new_email_address)]
PhoneNumber = Annotated[str, Field(max_length=32), AfterValidator(e164)]
WhatsAppRecipient = Annotated[str, Field(max_length=140), AfterValidator(_whatsapp_recipient)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_one_line)]
Recipients = Annotated[list[EmailAddress], BeforeValidator(_as_list)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}$")]
TemplateText = Annotated[Line, Field(max_length=1024), AfterValidator(_filling)]
HeaderUrl = Annotated[HttpUrl, AfterValidator(_fits_a_header)]
FileBytes = Annotated[bytes, EncodedBytes(encoder=_PlainBase64)]


def recipient_of(text: str) -> str:
    """Return what a typed address stands for in the ledger: an e-mail address, a phone number or a WhatsApp id.

    Raises:
        ValueError: It is none of them.
    """
    typed = text.strip()
    return _email_address(typed).lower() if "@" in typed else _whatsapp_recipient(typed)
