"""The mail stand-in behind the same control routes as the HTTP ones.

SMTP has no paths, so the control routes get a port of their own; what goes wrong happens on the SMTP port.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict

from sandbox.doors import SandboxError, free_port
from sandbox.faults import Fault
from sandbox.http_standin import Answer, Call, HttpStandin
from sandbox.smtp_faults import Fault as SmtpFault
from sandbox.smtp_server import SmtpServer


class MailStandin(HttpStandin):
    """The mail server behind the same control routes as the others. Faults have the form of `smtp_faults.Fault`."""

    def __init__(self, smtp_port: int = 0, control_port: int = 0) -> None:
        super().__init__(_NoApi(), control_port)
        self.smtp_port = smtp_port or free_port()
        self._smtp: SmtpServer | None = None
        self._planned: list[SmtpFault] = []

    @property
    def smtp(self) -> SmtpServer:
        """The mail server itself.

        Raises:
            SandboxError: It is not started.
        """
        if self._smtp is None:
            raise SandboxError("the mail stand-in is not started: call start() first")
        return self._smtp

    def start(self) -> None:
        """Start the mail server and its control port."""
        self._smtp = SmtpServer(port=self.smtp_port)
        self._smtp.start()
        super().start()

    def stop(self) -> None:
        """Stop both."""
        super().stop()
        if self._smtp is not None:
            self._smtp.stop()
            self._smtp = None

    def plan_json(self, value: object) -> None:
        """Append a fault in the JSON form of `smtp_faults.Fault`.

        Raises:
            ValueError: It is not a fault.
        """
        if not isinstance(value, Mapping):
            raise ValueError("a fault is a JSON object; see sandbox.smtp_faults.Fault")  # noqa: TRY004 - bad JSON
        fault = SmtpFault.from_json(value)
        self.smtp.plan(fault)
        self._planned.append(fault)

    def clear_faults(self) -> None:
        """Forget the faults that are still to come, and only those."""
        for fault in self._planned:
            while self.smtp.take(fault.phase, fault.suffix):
                pass
        self._planned.clear()

    def coming_faults(self) -> list[dict[str, object]]:
        """Return the faults planned since the last clearing; the mail server does not say which are used up."""
        return [asdict(fault) for fault in self._planned]

    def effects(self) -> list[dict[str, object]]:
        """Return one entry per message accepted, as `smtp_server.Effect.as_json` plus `key`, the delivery id."""
        return [{"key": effect.delivery_id, **effect.as_json()} for effect in list(self.smtp.effects)]

    def arrivals(self) -> list[float]:
        """Return when each message was accepted, in Unix seconds."""
        return [effect.at.timestamp() for effect in list(self.smtp.effects)]

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the commands seen and the messages that came in whole.

        Shape: {"smtp": {"EHLO": 2, "MAIL": 2, "complete": 1}}
        """
        return {"smtp": {**Counter(list(self.smtp.verbs)), "complete": self.smtp.data_complete}}

    def reset(self) -> None:
        """Forget effects, counters and faults."""
        self._planned.clear()
        self.smtp.clear()


class _NoApi:
    """The HTTP side of the mail stand-in: control routes and nothing else."""

    settings: Collection[str] = ()

    def labels(self, _call: Call) -> Collection[str]:
        return ()

    def see(self, call: Call) -> None:
        """Nothing to count."""

    def is_limited(self, _call: Call) -> bool:
        return False

    def answer(self, _call: Call) -> Answer:
        return Answer(404, {"error": "only /_standin/ routes here; mail goes to the SMTP port"})

    def error(self, _fault: Fault) -> Answer:
        return Answer(404, {"error": "faults of the mail stand-in happen on the SMTP port"})

    def too_many(self, _wait_s: float) -> Answer:
        return Answer(429, {"error": "too many requests"})

    def expire_tokens(self) -> None:
        """There are none."""

    def effects(self) -> list[dict[str, object]]:
        return []

    def hear(self, _value: object) -> None:
        raise ValueError("nobody answers mail here")

    def reset(self) -> None:
        """Nothing is kept."""

    def configure(self, settings: Mapping[str, object]) -> None:
        """There are no settings."""
