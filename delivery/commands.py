"""What a producer may ask for: the same body at every door, checked in one place.

A command is immutable once parsed. Parsing writes nothing and reaches nothing; its errors name the field and
the rule, never the value, because they travel to logs and to the producer's own logs.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    HttpUrl,
    JsonValue,
    StrictBool,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from delivery.errors import FieldIssue, InvalidCommand
from delivery.fields import (
    STORED,
    EmailAddress,
    FileBytes,
    HeaderUrl,
    Line,
    PhoneNumber,
    Recipients,
    TemplateText,
    WhatsAppRecipient,
    Word,
)
from delivery.instants import Instant
from delivery.issues import field_issues
from delivery.texts import PlainJson, Text
from delivery.wording import issue_text


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Options(_Body):
    """How a command wants to be delivered; the same for every kind.

    Attributes:
        order_key: Commands of one producer and account with the same key are delivered one after the other.
        callback_url: Where the producer is told what becomes of the delivery; the intake checks it.
        fallback: Another command, `{"kind": ..., ...its body}`, for when this one dies; the intake checks it.
        cancel_on_reply: Not sent any more once the person writes to the same account, e.g. a reminder.
        dry_run: Only tell what would happen. Nothing is kept of it.
    """

    key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$")] | None = None
    account: Word | None = None
    send_at: Instant | None = None
    expires_at: Instant | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    on_uncertain: Literal["hold", "resend"] | None = None
    order_key: Annotated[Line, Field(max_length=128)] | None = None
    callback_url: str | None = None
    fallback: dict[str, JsonValue] | None = None
    cancel_on_reply: bool = False
    metadata: dict[Word, PlainJson] = Field(default_factory=dict, max_length=20)
    dry_run: Annotated[StrictBool, Field(exclude=True)] = False

    @model_validator(mode="after")
    def _expiry_comes_after_sending(self) -> Self:
        if self.send_at and self.expires_at and self.expires_at <= self.send_at:
            raise ValueError("expires_before_send")
        return self


class Command(_Body):
    """One thing a producer asks for."""

    kind: ClassVar[str]
    service: ClassVar[str]

    # A default that stands here would be copied deeply for each command, which is slower than making one.
    options: Options = Field(default_factory=Options)

    @property
    @abstractmethod
    def recipient(self) -> str:
        """The person this reaches, as one normalised text; goes to the ledger as a keyed hash only."""

    @property
    def recipients(self) -> tuple[str, ...]:
        """Everybody whom this reaches, as normalised texts."""
        return (self.recipient,)

    @property
    def is_marketing(self) -> bool:
        """True when it must not reach a person who asked for no marketing."""
        return False

    @property
    def needs_window(self) -> bool:
        """True when the provider takes it only for some time after the person's last message."""
        return False

    def content(self) -> dict[str, JsonValue]:
        """Return the body without its options, as plain JSON."""
        return self.model_dump(mode="json", exclude={"options"}, exclude_none=True, by_alias=True)


class CreateLead(Command):
    """Create one lead in the CRM. Source: the user's API specification, section 3.1, read 2026-11-22."""

    kind: ClassVar[str] = "create_lead"
    service: ClassVar[str] = "crm"

    nome: Annotated[Line, Field(max_length=100)]
    email: EmailAddress
    telefone: PhoneNumber | None = None
    empresa: Annotated[Line, Field(max_length=200)] | None = None
    cargo: Annotated[Line, Field(max_length=200)] | None = None
    interesse: Annotated[Line, Field(max_length=100)]
    origem: Annotated[Line, Field(max_length=100)] = "agente_ia"
    observacoes: Annotated[Text, Field(max_length=1000)] | None = None
    tags: Annotated[list[Annotated[Line, Field(max_length=100)]], Field(max_length=10)] = []

    @field_validator("interesse")
    @classmethod
    def _interest_is_one_the_spec_knows(cls, value: str, info: ValidationInfo) -> str:
        allowed = (info.context or {}).get("interesse")
        if allowed is not None and value not in allowed:
            raise ValueError("choice:" + ", ".join(allowed))
        return value

    @property
    def recipient(self) -> str:
        """The lead's e-mail address, lower-cased."""
        return self.email.lower()


def _shape(value: object) -> str:
    return "[object]" if isinstance(value, Mapping) else "[list]"


# The body's own shape decides which is meant, so that an error is about that one; the labels stand in no field's name.
Variables = Annotated[
    Annotated[list[TemplateText], Tag("[list]")] | Annotated[dict[Word, TemplateText], Tag("[object]")],
    Discriminator(_shape),
]


class Template(_Body):
    """An approved WhatsApp template and what fills it; a mapping fills named variables, a list positional ones.

    Attributes:
        category: As Meta approved it; a marketing template is not sent to a person who asked for no marketing.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,512}$")]
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(_[A-Z]{2})?$")] = "pt_BR"
    variables: Variables = []
    category: Literal["marketing", "utility", "authentication"] = "marketing"


class Media(_Body):
    """One media file, by public link or by upload id."""

    type: Literal["image", "video", "audio", "document", "sticker"]
    url: HttpUrl | None = None
    id: Word | None = None
    caption: Annotated[Text, Field(min_length=1, max_length=1024)] | None = None
    filename: Annotated[Line, Field(max_length=240)] | None = None

    @field_validator("caption")
    @classmethod
    def _a_caption_is_shown(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("type") in {"audio", "sticker"} and info.context != STORED:
            raise ValueError("no_caption")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.id is None):
            raise ValueError("exactly_one:url, id")
        return self


class SendWhatsApp(Command):
    """Send one WhatsApp message: exactly one of text, template, media or message."""

    kind: ClassVar[str] = "send_whatsapp"
    service: ClassVar[str] = "whatsapp"

    to: WhatsAppRecipient
    # Source: WhatsApp Cloud API, send messages, Sep-2026, read 2026-11-22: a text body holds 4096 characters.
    text: Annotated[Text, Field(min_length=1, max_length=4096)] | None = None
    template: Template | None = None
    media: Media | None = None
    message: dict[Text, PlainJson] | None = None
    reply_to: Annotated[str, StringConstraints(pattern=r"^wamid\.[A-Za-z0-9+/=_-]{1,200}$")] | None = None

    @field_validator("message")
    @classmethod
    def _message_sends_something(
        cls, value: dict[str, JsonValue] | None, info: ValidationInfo
    ) -> dict[str, JsonValue] | None:
        if value is not None and "status" in value and info.context != STORED:
            raise ValueError("sends_nothing")
        return value

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if sum(each is not None for each in (self.text, self.template, self.media, self.message)) != 1:
            raise ValueError("exactly_one:text, template, media, message")
        return self

    @property
    def recipient(self) -> str:
        """The number in E.164 or the business-scoped user id."""
        return self.to

    @property
    def is_marketing(self) -> bool:
        """True for a template, unless it is said to be of another category; `message` may hold a template as well."""
        if self.message is not None:
            return self.message.get("type") == "template"
        return self.template is not None and self.template.category == "marketing"

    @property
    def needs_window(self) -> bool:
        """True for everything but templates. Source: WhatsApp Cloud API, customer service window, read 2026-11-22."""
        if self.message is not None:
            return self.message.get("type") != "template"
        return self.template is None


class Attachment(_Body):
    """One file of an e-mail; `content` is base64, at most 10 MB in all for one message."""

    filename: Annotated[Line, Field(max_length=240)]
    # Source: RFC 6838, section 4.2, restricted names of at most 127 characters, read 2026-11-30.
    content_type: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9.+-]{0,126}$")
    ] = "application/octet-stream"
    content: FileBytes
    cid: Word | None = None


class SendEmail(Command):
    """Send one e-mail with a text part, an HTML part or both."""

    model_config = ConfigDict(populate_by_name=True)
    kind: ClassVar[str] = "send_email"
    service: ClassVar[str] = "email"

    to: Annotated[Recipients, Field(min_length=1, max_length=50)]
    cc: Annotated[Recipients, Field(max_length=50)] = []
    bcc: Annotated[Recipients, Field(max_length=50)] = []
    reply_to: EmailAddress | None = None
    from_: Annotated[EmailAddress | None, Field(alias="from")] = None
    subject: Annotated[Line, Field(max_length=500)]
    text: Annotated[Text, Field(min_length=1, max_length=500_000)] | None = None
    html: Annotated[Text, Field(min_length=1, max_length=500_000)] | None = None
    attachments: Annotated[list[Attachment], Field(max_length=20)] = []
    inline: Annotated[list[Attachment], Field(max_length=20)] = []
    headers: Annotated[dict[str, Annotated[Line, Field(max_length=500)]], Field(max_length=20)] = {}
    unsubscribe_url: HeaderUrl | None = None

    @field_validator("headers")
    @classmethod
    def _only_extension_headers(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(re.fullmatch(r"X-[A-Za-z0-9-]{1,60}|Feedback-ID", name) for name in value):
            raise ValueError("header_names")
        return value

    @field_validator("inline")
    @classmethod
    def _inline_files_have_a_cid(cls, value: list[Attachment]) -> list[Attachment]:
        if any(each.cid is None for each in value):
            raise ValueError("cid")
        return value

    @model_validator(mode="after")
    def _has_a_body(self) -> Self:
        if self.text is None and self.html is None:
            raise ValueError("at_least_one:text, html")
        return self

    @property
    def recipient(self) -> str:
        """The first address, lower-cased: one e-mail is one promise, and its first reader names it."""
        return self.to[0].lower()

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every address, lower-cased."""
        return tuple(each.lower() for each in (*self.to, *self.cc, *self.bcc))

    @property
    def is_marketing(self) -> bool:
        """True for a mail that one can unsubscribe from."""
        return self.unsubscribe_url is not None


KINDS: Mapping[str, type[Command]] = {each.kind: each for each in (CreateLead, SendWhatsApp, SendEmail)}


def parse_command(
    kind: str,
    body: Mapping[str, Any],
    *,
    choices: Mapping[str, tuple[str, ...]],
    now: datetime,
    language: str = "pt",
) -> Command:
    """Turn a producer's body into a command.

    Args:
        kind: `create_lead`, `send_whatsapp` or `send_email`.
        body: The producer's JSON object, `options` included.
        choices: Values the spec allows for a field, e.g. {"interesse": ("produto_a", "produto_b")}.
        now: The present instant, to refuse a command that has already expired.
        language: Language of the issues, "pt" or "en".

    Raises:
        InvalidCommand: Any field is missing, wrong, too long or unknown.
    """
    model = KINDS.get(kind)
    if model is None:
        raise InvalidCommand(kind[:40], (FieldIssue("kind", issue_text("choice:" + ", ".join(KINDS), language)),))
    try:
        command = model.model_validate(body, context=choices)
    except ValidationError as err:
        raise InvalidCommand(kind, field_issues(err, language)) from None  # the cause would carry the values
    expiry = command.options.expires_at
    if expiry is not None and expiry <= now:
        raise InvalidCommand(kind, (FieldIssue("options.expires_at", issue_text("in_the_past", language)),))
    _check_horizon(command, now, language)
    return command


def _check_horizon(command: Command, now: datetime, language: str) -> None:
    send_at = command.options.send_at
    if send_at is not None and send_at > now + timedelta(days=366):
        raise InvalidCommand(command.kind, (FieldIssue("options.send_at", issue_text("too_far", language)),))
