"""The exact bytes of one e-mail: the same on every attempt, and with no header that we did not write.

Owns the MIME tree and the header block; reaches no network and keeps nothing. The header block is written here and
not by `EmailMessage`, because its parser decodes encoded words in values: on Python 3.11.7 the subject
`=?utf-8?q?a=0D=0ABcc:_x=40y?=` comes out as a real Bcc line. The finished bytes are parsed again and compared.

Source: RFC 5322, RFC 2045-2047 and 2231 (format), RFC 3834 (Auto-Submitted), RFC 8058 (one-click unsubscribe),
CVE-2024-6923 (header injection in Python's email package); read 2026-11-22.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from email.errors import MessageError
from email.header import Header
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP, compat32
from email.utils import format_datetime
from uuid import UUID

from email_validator import EmailNotValidError, validate_email

from delivery.commands import Attachment, SendEmail
from delivery.errors import Permanent
from delivery.ports import Order
from providers.smtp.plain_text import plain_text

# 7-bit bodies survive every hop and any DKIM signature; 76 is the longest quoted-printable line (RFC 2045 §6.7).
_POLICY = SMTP.clone(cte_type="7bit", max_line_length=76)
_LINE = 76
_NEXT_ADDRESS = ",\r\n "
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EXTENSION_HEADER = re.compile(r"X-[A-Za-z0-9-]{1,60}|Feedback-ID")
# RFC 5321 §4.5.3.1.3: a path holds 256 octets, its two angle brackets among them.
_ADDRESS = re.compile(r"(?=.{3,254}\Z)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]+")
_URL = re.compile(r"https?://[\x21\x23-\x3b\x3d\x3f-\x7e]{1,900}")  # no blank, quote, < or >
# What no file system takes, path parts, and the marks that turn the reading order ("exe.pdf" for "fdp.exe").
_NOT_IN_FILENAME = re.compile(r"[\x00-\x1f\x7f-\x9f<>:\"/\\|?*\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PART_HEADERS = {"content-type", "content-transfer-encoding", "content-disposition", "content-id", "mime-version"}
_ANY_SENDER = "avisos@exemplo.com.br"
_MOST_LINE = 998  # RFC 5321 §4.5.3.1.6


@dataclass(frozen=True)
class Letter:
    """One e-mail, ready for the wire.

    Attributes:
        message_id: `<delivery id@domain of From>`, the same on every attempt, so that a copy can be looked up.
        sender: Envelope sender.
        recipients: Envelope recipients: to, cc and bcc, each address once.
        raw: The whole message; 7-bit, every line ends in CRLF, not yet dot-stuffed.
    """

    message_id: str
    sender: str = field(repr=False)
    recipients: tuple[str, ...] = field(repr=False)
    raw: bytes = field(repr=False)


def compose(order: Order, command: SendEmail, *, from_email: str) -> Letter:
    """Write the e-mail of a delivery.

    Args:
        order: Gives the Message-ID and the Date, so that every attempt writes the same bytes.
        command: What to write; its own From wins.
        from_email: The account's address.

    Raises:
        Permanent: The command holds what cannot be written safely ("invalid").
    """
    try:
        return _letter(order, command, ascii_address(command.from_ or from_email))
    except (ValueError, MessageError) as err:
        # The values may hold a person: the cause tells the developer, the message only the rule.
        raise Permanent("the e-mail could not be written: a header, an address or a text is malformed") from err


def _letter(order: Order, command: SendEmail, sender: str) -> Letter:
    message_id = f"<{order.delivery_id}@{sender.rpartition('@')[2]}>"
    head = list(_head(order, command, sender, message_id))
    body = _body(command, order.delivery_id)
    raw = "".join(_header_line(name, value) for name, value in head).encode("ascii") + body.as_bytes()
    check(raw, head=[*(name for name, _ in head), *body.keys()], parts=sum(1 for _ in body.walk()))
    return Letter(message_id, sender, _once((*command.to, *command.cc, *command.bcc)), raw)


def check_head(order: Order, command: SendEmail) -> None:
    """Write the head of a mail to nobody: what a command's fields may spoil. Its body takes any text and any bytes.

    Raises:
        Permanent: The command holds what cannot be written safely ("invalid").
    """
    try:
        sender = ascii_address(command.from_ or _ANY_SENDER)
        for name, value in _head(order, command, sender, f"<{order.delivery_id}@exemplo.com.br>"):
            _header_line(name, value)
        _once((*command.to, *command.cc, *command.bcc))
    except (ValueError, MessageError) as err:
        raise Permanent("the e-mail could not be written: a header or an address is malformed") from err


def _head(order: Order, command: SendEmail, sender: str, message_id: str) -> Iterator[tuple[str, str]]:
    yield "Message-ID", message_id
    yield "Date", format_datetime(order.accepted_at.astimezone(UTC))
    yield "From", sender
    yield "To", _addresses(command.to)
    # Bcc is never written: the envelope alone carries it.
    if command.cc:
        yield "Cc", _addresses(command.cc)
    if command.reply_to:
        yield "Reply-To", ascii_address(command.reply_to)
    yield "Subject", command.subject
    yield "Auto-Submitted", "auto-generated"
    if command.unsubscribe_url:
        yield from _unsubscribe(str(command.unsubscribe_url))
    yield from _extensions(command)


def _unsubscribe(url: str) -> Iterator[tuple[str, str]]:
    if not _URL.fullmatch(url):
        raise ValueError("unsubscribe_url cannot stand in a header")
    yield "List-Unsubscribe", f"<{url}>"
    if url.startswith("https:"):  # RFC 8058 §3.1: one click is for https only
        yield "List-Unsubscribe-Post", "List-Unsubscribe=One-Click"


def _extensions(command: SendEmail) -> Iterator[tuple[str, str]]:
    for name, value in command.headers.items():
        if not _EXTENSION_HEADER.fullmatch(name):
            raise ValueError("a header name is not allowed")
        yield name, value


def ascii_address(address: str) -> str:
    """Return an address with its domain in punycode.

    Raises:
        ValueError: It is not one plain address.
    """
    written = address
    if not address.isascii():
        try:
            written = validate_email(address, check_deliverability=False).ascii_email or address
        except EmailNotValidError:
            raise ValueError("an address is malformed") from None  # the cause would carry the address
    if not _ADDRESS.fullmatch(written):
        raise ValueError("an address is malformed")
    return written


def _addresses(listed: Iterable[str]) -> str:
    return _NEXT_ADDRESS.join(map(ascii_address, listed))


def _once(listed: Iterable[str]) -> tuple[str, ...]:
    unique: dict[str, str] = {}
    for each in map(ascii_address, listed):
        unique.setdefault(each.lower(), each)
    return tuple(unique.values())


def _header_line(name: str, value: str) -> str:
    """Return one header in ASCII; a text that is not plain ASCII becomes encoded words (RFC 2047)."""
    if _CONTROL.search(value.replace(_NEXT_ADDRESS, "")):
        raise ValueError("a header value holds control characters")
    text = unicodedata.normalize("NFC", value)
    too_long = name == "Subject" and len(name) + len(text) > _LINE
    # What looks like an encoded word is encoded once more: the reader sees it as it was written, decoded by nobody.
    if too_long or not text.isascii() or "=?" in text:
        text = Header(text, "utf-8", maxlinelen=_LINE, header_name=name).encode(linesep="\r\n")
    return f"{name}: {text}\r\n"


def _body(command: SendEmail, delivery_id: UUID) -> EmailMessage:
    """Return the tree mixed(alternative(plain, related(html, images)), files), as far as the command needs it."""
    message = EmailMessage(policy=_POLICY)
    text = command.text or plain_text(command.html or "") or command.subject
    message.set_content(_nfc(text), cte="quoted-printable")
    if command.html:
        _add_html(message, command.html, command.inline)
    for each in command.attachments if command.html else (*command.inline, *command.attachments):
        main, sub = _media_type(each)
        message.add_attachment(each.content, maintype=main, subtype=sub, filename=_filename(each))
    for number, part in enumerate(part for part in message.walk() if part.is_multipart()):
        # "=_" stands in no quoted-printable or base64 line, so no content can hold its own boundary (RFC 2045 §6.7).
        part.set_boundary(f"=_{delivery_id.hex}_{number}")
    return message


def _add_html(message: EmailMessage, source: str, inline: Iterable[Attachment]) -> None:
    message.add_alternative(_nfc(source), subtype="html", cte="quoted-printable")
    html_part = list(message.iter_parts())[-1]
    for each in inline:
        main, sub = _media_type(each)
        cid, name = f"<{each.cid}>", _filename(each)
        html_part.add_related(each.content, maintype=main, subtype=sub, cid=cid, filename=name, disposition="inline")


def _media_type(file: Attachment) -> tuple[str, str]:
    main, _, sub = file.content_type.partition("/")
    # RFC 2046 §5: these two may not be base64, and a mail inside a mail is a way around our headers.
    return ("application", "octet-stream") if main in {"multipart", "message"} else (main, sub)


def _filename(file: Attachment) -> str:
    return _NOT_IN_FILENAME.sub("_", _nfc(file.filename)).strip(" .") or "file"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def check(raw: bytes, *, head: list[str], parts: int) -> None:
    """Refuse bytes that a mail server would read otherwise than we meant them.

    The last line of defence: it trusts nothing above it.

    Args:
        raw: The finished message.
        head: The names of its headers, in order.
        parts: How many parts its tree has, itself included.

    Raises:
        ValueError: The bytes hold another header, another part, a loose CR or LF, or an overlong or 8-bit line.
    """
    lines = raw.split(b"\r\n")
    loose = {raw.count(b"\r"), raw.count(b"\n")} != {len(lines) - 1}
    if loose or lines[-1] or not raw.isascii() or max(map(len, lines)) > _MOST_LINE:
        raise ValueError("the finished message has loose line ends, or lines that are too long or not ASCII")
    found = BytesParser(policy=compat32).parsebytes(raw)
    walked = list(found.walk())
    if found.keys() != head or len(walked) != parts:
        raise ValueError("the finished message does not hold exactly the headers and parts that were wanted")
    if any(each.defects or not {key.lower() for key in each.keys()} <= _PART_HEADERS for each in walked[1:]):  # noqa: SIM118
        raise ValueError("a part of the finished message holds a header that was not wanted")
