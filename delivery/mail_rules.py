"""The allow-lists of an e-mail: its headers, its sender and its files. Pure rules over the spec's `mail` section.

Relays obey headers such as `X-SMTPAPI`, `X-MC-BccAddress` or `X-SES-*`: they add recipients, change the sender or use
another person's account. So only names that stand in the spec pass.
"""

from collections.abc import Collection, Iterator

from config.spec_mail import Mail
from delivery.commands import Attachment, SendEmail

# What a producer gives when it says nothing; the extension then decides.
_UNSAID = "application/octet-stream"


def mail_issues(command: SendEmail, mail: Mail, *, account: str, from_email: str | None) -> Iterator[tuple[str, str]]:
    """Yield each field that is not on an allow-list, and what is wrong, as a word of `delivery.wording`.

    Args:
        account: E.g. "email:default".
        from_email: The account's own address; None when it is not known.
    """
    allowed = {each.lower() for each in mail.headers}
    for name in command.headers:
        if name.lower() not in allowed:
            yield f"headers.{name}", "mail_header:" + ", ".join(mail.headers)
    if command.from_ and not is_sender(command.from_, senders_of(mail, account, from_email)):
        yield "from", "mail_sender"
    for field, files in (("attachments", command.attachments), ("inline", command.inline)):
        for number, each in enumerate(files):
            if word := _file_issue(each, mail):
                yield f"{field}.{number}", word


def senders_of(mail: Mail, account: str, from_email: str | None) -> tuple[str, ...]:
    """Return the addresses and "@domain" that an account may send from."""
    own = (from_email.lower(), "@" + from_email.lower().rpartition("@")[2]) if from_email else ()
    further = mail.senders
    return (*own, *further.get(account, ()))


def is_sender(address: str, entries: Collection[str]) -> bool:
    """Tell whether an address, or its domain, is on a list."""
    written = address.lower()
    return written in entries or "@" + written.rpartition("@")[2] in entries


def _file_issue(file: Attachment, mail: Mail) -> str | None:
    stem, dot, extension = file.filename.lower().rpartition(".")
    types = mail.files.get(extension) if stem and dot else None
    if types is None:
        return "mail_file:" + ", ".join(mail.files)
    return None if file.content_type.lower() in (*types, _UNSAID) else "mail_file_type:" + ", ".join(types)
