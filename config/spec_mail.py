"""What an e-mail may carry beyond its text: allow-lists of headers, senders and files. Only the e-mail spec has it."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from config.spec_values import HeaderName, Section, Text, Texts, listed

Extension = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,10}$")]
Sender = Annotated[str, StringConstraints(pattern=r"^[^@\s]*@[a-z0-9.-]+$", to_lower=True)]


class Mail(Section):
    """Allow-lists; what does not stand here is refused at the door, by field.

    Attributes:
        headers: Names that a producer may set, in any case. Headers that steer a relay do not belong here.
        senders: Further addresses and "@domain", by account; FROM_EMAIL and its domain are always allowed.
        files: The media types of each file extension; a file with another extension or type is refused.
    """

    headers: Annotated[tuple[HeaderName, ...], listed]
    senders: Mapping[Text, Annotated[tuple[Sender, ...], listed]] = {}
    files: Annotated[Mapping[Extension, Texts], Field(min_length=1)]
