"""One SMTP conversation, step by step, that always knows its phase.

Owns the order of the steps and the security of the line; the words of the protocol come from `smtplib`, the verdicts
from `replies`. It never sends a second message and never retries. `smtplib`'s one-call `sendmail` is not used: it
throws away the server's queue id and gives a loss before and after the final dot the same exception.
"""

import base64
import smtplib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, cast

from delivery.errors import Permanent, ProviderError
from providers.smtp.replies import Phase, Reply, lost, refusal, worst
from providers.smtp.wire import Clock, Deadline, TimedSocket, dial

_CLOSING = 421  # RFC 5321 §3.8: the server has closed the conversation, at whatever step


@dataclass(frozen=True)
class Route:
    """How to reach one mail server.

    Attributes:
        use_ssl: TLS from the first byte (port 465); otherwise STARTTLS is demanded (port 587).
        clear_to_loopback: Go on without TLS when the server offers none and is on this machine (sandbox only).
        helo: Our name in EHLO.
        connect_s: Longest wait for a connection and for its TLS handshake, in seconds.
        read_s: Longest wait for one reply before the message is handed over, in seconds.
        final_reply_s: Longest wait for the reply to the whole message, in seconds.
        total_s: Longest whole exchange, in seconds, however busy the line is.
        max_reply_bytes: The most the server may say in one conversation.
    """

    host: str
    port: int
    use_ssl: bool
    clear_to_loopback: bool
    helo: str
    user: str
    connect_s: float
    read_s: float
    final_reply_s: float
    total_s: float
    max_reply_bytes: int
    password: str = field(repr=False)
    context: ssl.SSLContext = field(repr=False)


class Session:
    """One conversation; use it as a context manager.

    Leaving it turns a failure of the line into the verdict of its phase, and says QUIT while the line is alive: a
    loss after the final 250 is still a success.

    Attributes:
        phase: The step under way.
    """

    def __init__(self, route: Route, clock: Clock) -> None:
        self.phase = Phase.CONNECT
        self._route = route
        self._deadline = Deadline(route.total_s, clock)
        self._smtp = smtplib.SMTP(local_hostname=route.helo)  # without a host it connects to nothing
        self._line: TimedSocket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, err: BaseException | None, _trace: object) -> None:
        if isinstance(err, (OSError, smtplib.SMTPException)):
            self._smtp.close()
            raise self._loss(err) from err
        self._leave()

    def _loss(self, err: Exception) -> ProviderError:
        if isinstance(err, ssl.SSLCertVerificationError):
            wanted = f"a trusted certificate for {self._route.host}"
            message = f"the mail server did not show {wanted}: check SMTP_HOST, or the server's certificate"
            return Permanent(message, code="certificate")
        return lost(self.phase)

    def open(self) -> None:
        """Connect, greet, secure the line and log in.

        Raises:
            ProviderError: The server refused, or offers less security than is demanded.
            OSError, smtplib.SMTPException: The line failed; `__exit__` makes it a verdict.
        """
        self._connect()
        if self._route.use_ssl:
            self._start_tls()
        self._greet()
        if not self._route.use_ssl:
            self._demand_tls()
        if self._route.user:
            self._log_in()

    def _connect(self) -> None:
        try:
            sock = dial(self._route.host, self._route.port, self._deadline, connect_s=self._route.connect_s)
        except (UnicodeError, OverflowError) as err:
            raise Permanent("SMTP_HOST or SMTP_PORT cannot exist: correct them", code="misconfigured") from err
        most = self._route.max_reply_bytes
        self._line = TimedSocket(sock, self._deadline, step_s=self._route.read_s, max_bytes=most)
        # smtplib asks of a socket only what TimedSocket offers.
        self._smtp.sock = cast("socket.socket", self._line)

    def _greet(self) -> None:
        self.phase = Phase.BANNER
        self._expect(220, self._reply())
        self._say_hello()

    def _say_hello(self) -> None:
        self._expect(250, Reply(*_decoded(self._smtp.ehlo())))

    def _demand_tls(self) -> None:
        if self._smtp.has_extn("starttls"):
            self.phase = Phase.TLS
            self._expect(220, self._ask("STARTTLS"))
            self._start_tls()
            self._say_hello()
        elif not (self._route.clear_to_loopback and self._connected.peer_is_loopback):
            # Either a wrong port or somebody on the way who removed the offer: never go on in clear.
            message = "the mail server offers no STARTTLS and nothing was sent in clear: check SMTP_PORT, SMTP_USE_SSL"
            raise Permanent(message, code="misconfigured")

    def _start_tls(self) -> None:
        self.phase = Phase.TLS
        self._connected.step_s = self._route.connect_s
        self._connected.start_tls(self._route.context, self._route.host)
        self._connected.step_s = self._route.read_s
        # What was said in clear does not count: no buffered reply (a known injection) and no extension survives.
        self._smtp.file = None
        self._smtp.esmtp_features = {}

    def _log_in(self) -> None:
        self.phase = Phase.AUTH
        offered = self._smtp.esmtp_features.get("auth", "").upper().split()
        # One mechanism, one try: smtplib's login() goes on to the next one and doubles the failed logins.
        if "PLAIN" in offered:
            reply = self._ask("AUTH", "PLAIN " + _base64(f"\0{self._route.user}\0{self._route.password}"))
        elif "LOGIN" in offered:
            reply = self._log_in_by_steps()
        else:
            message = "the mail server offers neither AUTH PLAIN nor LOGIN: check SMTP_PORT, or leave SMTP_USER empty"
            raise Permanent(message, code="misconfigured")
        self._expect(235, reply)

    def _log_in_by_steps(self) -> Reply:
        self._expect(334, self._ask("AUTH", "LOGIN"))
        self._expect(334, self._ask(_base64(self._route.user)))
        return self._ask(_base64(self._route.password))

    def check(self) -> str:
        """Ask for nothing and return how the line is protected, e.g. "TLSv1.3"."""
        self._expect(250, self._ask("NOOP"))
        return self._connected.encryption or "clear text on this machine"

    def start(self, sender: str, size: int) -> None:
        """Name the sender and the size of the message in bytes.

        Raises:
            ProviderError: The server takes neither this sender nor this size.
        """
        self.phase = Phase.MAIL
        most = self._smtp.esmtp_features.get("size", "")
        if most.isdecimal() and 0 < int(most) < size:
            # smtplib announces the size but does not compare it.
            raise Permanent(f"the message has {size} bytes and the mail server takes {most}: send a link instead")
        announced = f" SIZE={size}" if self._smtp.has_extn("size") else ""
        self._expect_success(self._ask("MAIL", f"FROM:<{sender}>{announced}"))

    def address(self, recipients: Sequence[str]) -> int:
        """Name the recipients; return how many the server took, at least one.

        Raises:
            ProviderError: It took none, or ended the conversation (421).
        """
        self.phase = Phase.RCPT
        refusals = [err for each in recipients if (err := self._refused(each)) is not None]
        if len(refusals) == len(recipients):
            raise worst(refusals)
        return len(recipients) - len(refusals)

    def _refused(self, recipient: str) -> ProviderError | None:
        reply = self._ask("RCPT", f"TO:<{recipient}>")
        if reply.is_success:
            return None
        verdict = refusal(reply, self.phase)
        if reply.code == _CLOSING:
            raise verdict
        return verdict

    def hand_over(self, raw: bytes) -> Reply:
        """Send the message and return the server's promise to deliver it.

        Args:
            raw: The whole message; every line ends in CRLF.

        Raises:
            ProviderError: The server refused before or after it read the message.
        """
        self.phase = Phase.DATA
        self._expect(354, self._ask("DATA"))
        self.phase = Phase.BODY
        self._smtp.send(_dotted(raw))
        # From here on the server may act. A spam filter may take minutes, and giving up early is how duplicates are
        # made (RFC 1047), so this wait has a time-out of its own.
        self.phase = Phase.FINAL
        self._connected.step_s = self._route.final_reply_s
        reply = self._reply()
        self._expect_success(reply)
        return reply

    @property
    def _connected(self) -> TimedSocket:
        if self._line is None:
            raise OSError("the session is not connected")
        return self._line

    def _ask(self, command: str, argument: str = "") -> Reply:
        return Reply(*_decoded(self._smtp.docmd(command, argument)))

    def _reply(self) -> Reply:
        return Reply(*_decoded(self._smtp.getreply()))

    def _expect(self, code: int, reply: Reply) -> None:
        if reply.code != code:
            raise refusal(reply, self.phase)

    def _expect_success(self, reply: Reply) -> None:
        if not reply.is_success:
            raise refusal(reply, self.phase)

    def _leave(self) -> None:
        if self._line is None or self._smtp.sock is None:
            return
        self._line.step_s = self._route.connect_s
        try:
            self._smtp.docmd("QUIT")
        except (OSError, smtplib.SMTPException):
            pass  # the verdict is known, and how the line ends cannot change it
        finally:
            self._smtp.close()


def _decoded(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], answer[1].decode("ascii", "replace")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _dotted(raw: bytes) -> bytes:
    # RFC 5321 §4.5.2: a line that begins with a dot gets a second one, so no body can end the message early.
    return raw.replace(b"\n.", b"\n..") + b".\r\n"
