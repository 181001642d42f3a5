"""What a stand-in is told to do wrong, and the plan that hands it out: in order, as often as asked.

A fault is data, so that a test, the demo and a running stand-in process speak of it in the same JSON.
"""

import threading
from collections.abc import Collection, Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_KINDS = ("status", "hang_s", "close", "truncate", "expire_tokens", "html", "graph_error")


class Fault(BaseModel):
    """One thing that goes wrong, in the way a provider does it.

    Exactly one of the first seven says what; `status` may also stand beside `graph_error`.

    Attributes:
        status: Answer with this HTTP status and `body`; nothing is done unless `effect` is true.
        hang_s: Stay silent this long. With `effect` (the default here) the request is carried out first and answered
            after the silence; without, the connection is closed after it and nothing was done.
        close: Drop the connection without an answer, before or after carrying the request out.
        truncate: Carry it out and send half of the body, below its Content-Length.
        expire_tokens: Every token handed out so far is worthless from this request on, itself included.
        html: Answer with this HTTP status and a page of HTML, as a gateway does; `effect` as in `status`.
        graph_error: Answer with the Graph API's error body of this code, with HTTP `status` (default 400).
        retry_after: The Retry-After header of a `status` answer: seconds or an HTTP date.
        body: The body of a `status` answer: JSON, or a string sent as it is; None for the stand-in's own error body.
        effect: Whether the request is carried out; None for what is usual for the kind.
        times: To how many requests it happens; None until the plan is cleared.
        match: Only to requests with this operation ("create_lead"), path, "METHOD path" or delivery id.

    Shape: {"status": 503, "retry_after": "2", "times": 3, "match": "create_lead"}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: int | None = Field(default=None, ge=200, le=599)
    hang_s: float | None = Field(default=None, ge=0)
    close: Literal["before", "after"] | None = None
    truncate: bool = False
    expire_tokens: bool = False
    html: int | None = Field(default=None, ge=200, le=599)
    graph_error: int | None = None
    retry_after: str | None = None
    body: object = None
    effect: bool | None = None
    times: int | None = Field(default=1, ge=1)
    match: str | None = None

    @model_validator(mode="after")
    def _has_one_kind(self) -> Self:
        kinds = [kind for kind in _KINDS if getattr(self, kind) not in (None, False)]
        if len(kinds) != 1 and set(kinds) != {"status", "graph_error"}:
            raise ValueError(f"a fault needs exactly one of {', '.join(_KINDS)}; found {kinds or 'none'}")
        return self

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read a fault from its JSON form.

        Raises:
            ValueError: It is not one; the message says why.
        """
        return cls.model_validate(value)

    def as_json(self) -> dict[str, object]:
        """Return the JSON form, without what was left at its default, except `times`."""
        return {**self.model_dump(mode="json", exclude_defaults=True), "times": self.times}

    @property
    def acts(self) -> bool:
        """Tell whether the request is carried out before the fault shows."""
        usual = self.hang_s is not None or self.close == "after" or self.truncate
        return usual if self.effect is None else self.effect


class FaultPlan:
    """The faults still to come, oldest first. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: list[tuple[Fault, int | None]] = []

    def add(self, fault: Fault) -> None:
        """Append a fault."""
        with self._lock:
            self._coming.append((fault, fault.times))

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._coming.clear()

    def coming(self) -> list[dict[str, object]]:
        """Return what is still planned, as JSON, with the times that are left."""
        with self._lock:
            return [{**fault.as_json(), "times": left} for fault, left in self._coming]

    def take(self, labels: Collection[str]) -> Fault | None:
        """Return the oldest fault that concerns a request with these labels, and count it as used."""
        with self._lock:
            for place, (fault, left) in enumerate(self._coming):
                if fault.match is None or fault.match in labels:
                    self._use(place, fault, left)
                    return fault
        return None

    def _use(self, place: int, fault: Fault, left: int | None) -> None:
        if left == 1:
            del self._coming[place]
        elif left is not None:
            self._coming[place] = (fault, left - 1)


class RateLimit(BaseModel):
    """How many requests a stand-in answers in one window, which begins with its first request.

    Shape: {"limit": 50, "window_s": 10}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(ge=0)
    window_s: float = Field(gt=0)


class Window:
    """The count of one rate limit. Refused requests do not count. Safe to use from many threads."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._began: float | None = None
        self._used = 0

    def refuse(self, now: float) -> float | None:
        """Count a request; return None to let it pass, else the seconds until the window ends.

        Args:
            now: A monotonic time in seconds.
        """
        with self._lock:
            if self._began is None or now - self._began >= self._limit.window_s:
                self._began, self._used = now, 0
            if self._used < self._limit.limit:
                self._used += 1
                return None
            return self._began + self._limit.window_s - now


def settings_from(value: object, known: Collection[str]) -> Mapping[str, object]:
    """Return the settings of a control request.

    Raises:
        ValueError: It is not a JSON object, or names a setting that this stand-in does not have.
    """
    if not isinstance(value, dict) or not set(value) <= set(known):
        raise ValueError(f"settings are a JSON object with some of: {', '.join(sorted(known))}")
    return value
