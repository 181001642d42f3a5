"""What the stand-in mail server keeps, and what it can be told to do wrong; both travel as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, Self, get_args

Phase = Literal["banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "after_dot"]
Action = Literal["reply", "silent", "drop", "drip", "accept_then_drop", "accept_then_hang", "drop_after_250"]


@dataclass(frozen=True)
class Effect:
    """One message that the server accepted.

    Attributes:
        delivery_id: Local part of the Message-ID.
        size: Length of `raw` in bytes.
        raw: The message as it was meant, dot-stuffing undone.
        at: When it was accepted.
    """

    message_id: str
    delivery_id: str
    mail_from: str
    rcpt_to: tuple[str, ...]
    size: int
    at: datetime
    raw: bytes = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """Return everything but the message itself.

        Shape: {"message_id": "<...>", "delivery_id": "...", "mail_from": "...", "rcpt_to": ["..."], "size": 812,
        "at": "2026-11-22T12:00:00+00:00"}
        """
        facts = asdict(self)
        del facts["raw"]
        return {**facts, "rcpt_to": list(self.rcpt_to), "at": self.at.isoformat()}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on purpose.

    Attributes:
        phase: When; `body` is after the first bytes of the message, `after_dot` after the last.
        action: `reply` answers `code text`; `silent` says nothing for `seconds`, then closes; `drop` closes at once;
            `drip` answers one byte every `seconds`; `accept_then_drop`, `accept_then_hang` and `drop_after_250`
            (after_dot only) keep the message first.
        code: Reply code; 0 means the usual answer (for `drip`).
        suffix: Only for recipients that end so (rcpt only).
        seconds: How long, for `silent`, `drip` and `accept_then_hang`.
        times: How often, before the fault is used up.
    """

    phase: Phase
    action: Action = "reply"
    code: int = 0
    text: str = "4.3.0 fault ordered by the test"
    suffix: str = ""
    seconds: float = 1.0
    times: int = 1

    def __post_init__(self) -> None:
        if self.phase not in get_args(Phase) or self.action not in get_args(Action):
            raise ValueError(f"unknown phase {self.phase!r} or action {self.action!r}; see Fault")
        if self.action == "reply" and not 200 <= self.code <= 599:  # noqa: PLR2004 - the range of SMTP replies
            raise ValueError("a reply needs a code between 200 and 599")

    @property
    def accepts(self) -> bool:
        """True when a message takes effect although its client may not learn it."""
        return self.action not in {"silent", "drop"} and self.code < 300  # noqa: PLR2004 - 3yz to 5yz refuse

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Read a fault from a control request.

        Shape: {"phase": "rcpt", "action": "reply", "code": 450, "text": "4.2.1 later", "suffix": "@x.exemplo"}

        Raises:
            ValueError: A field is unknown, missing or wrong.
        """
        try:
            return cls(**body)
        except TypeError as err:
            raise ValueError("wanted the fields of a fault: phase, action, code, text, suffix, seconds, times") from err
