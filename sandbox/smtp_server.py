"""A stand-in mail server with an effect ledger and faults that are ordered in advance.

Owns one loopback listener that speaks enough SMTP for a submission client (EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA,
RSET, NOOP, VRFY, QUIT) and keeps every message it accepted, so that tests can count effects. It delivers nothing,
and shares no code with `providers/`: the same mistake on both sides would hide itself.
"""

import base64
import contextlib
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Self

from sandbox.smtp_faults import Effect, Fault, Phase

__all__ = ["Effect", "Fault", "SmtpServer", "Tls"]

Tls = Literal["none", "starttls", "implicit"]

_MOST_LINE_BYTES = 100_000
_IDLE_S = 60.0
_CLOSING = 421
_SUCCESS = range(200, 300)
_PLAIN_ANSWERS = {"NOOP": (250, "2.0.0 ok"), "VRFY": (252, "2.1.5 send some mail and see"), "HELO": (250, "stand-in")}


class SmtpServer:
    """The stand-in; start it, point a client at `host` and `port`, then read `effects`.

    Attributes:
        port: Where it listens; chosen by the system when it was given as 0.
        effects: Every accepted message, oldest first.
        verbs: Every command word that came, oldest first; arguments are not kept.
        data_complete: Messages that came in whole, accepted or not.
    """

    def __init__(  # noqa: PLR0913 - one for each thing a test may want
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: Tls = "none",
        ssl_context: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
        mechanisms: str = "PLAIN LOGIN",
        max_size: int = 26_214_400,
    ) -> None:
        """Bind the port; nothing is answered before `start`.

        Args:
            host: Where to listen; meant for loopback.
            port: 0 lets the system choose.
            tls: `implicit` from the first byte, `starttls` offered, or `none`.
            ssl_context: The server's certificate; needed unless `tls` is "none".
            credentials: User and password; None wants no login.
            mechanisms: What is advertised after AUTH; PLAIN and LOGIN are understood.
            max_size: Largest message in bytes, advertised as SIZE.
        """
        if tls != "none" and ssl_context is None:
            raise ValueError("TLS needs an ssl_context with a certificate")
        self.host = host
        self.tls, self.ssl_context, self.credentials, self.max_size = tls, ssl_context, credentials, max_size
        self.mechanisms = mechanisms
        self.stopping = threading.Event()
        self.effects: list[Effect] = []
        self.verbs: list[str] = []
        self.data_complete = 0
        self._faults: list[list[Any]] = []
        self._lock = threading.Lock()
        self._conversations: dict[threading.Thread, socket.socket] = {}
        self._listener = _Listener((host, port), self)
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(0.02,), name="smtp-stand-in", daemon=True
        )

    @property
    def accepted(self) -> int:
        """How many messages took effect."""
        with self._lock:
            return len(self.effects)

    def start(self) -> Self:
        """Answer connections from now on; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection and the port, and wait until the threads are gone."""
        self.stopping.set()
        self._listener.shutdown()
        self._listener.server_close()
        with self._lock:
            open_now = dict(self._conversations)
        for thread, sock in open_now.items():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=5)
        self._thread.join(timeout=5)

    def plan(self, *faults: Fault) -> None:
        """Order faults; each phase takes the oldest one that fits."""
        with self._lock:
            self._faults += [[each, each.times] for each in faults]

    def clear(self) -> None:
        """Forget the faults that are left, the effects and the counters."""
        with self._lock:
            self._faults.clear()
            self.effects.clear()
            self.verbs.clear()
            self.data_complete = 0

    def take(self, phase: Phase, address: str = "") -> Fault | None:
        """Use up and return the next fault of a phase."""
        with self._lock:
            for entry in self._faults:
                fault: Fault = entry[0]
                if fault.phase == phase and address.endswith(fault.suffix) and entry[1] > 0:
                    entry[1] -= 1
                    return fault
        return None

    def record(self, effect: Effect, *, accepted: bool) -> None:
        """Count one whole message; an accepted one goes into the effect ledger."""
        with self._lock:
            self.data_complete += 1
            self.effects += [effect] if accepted else []

    def enter(self, sock: socket.socket) -> None:
        """Note the conversation of the calling thread, so that `stop` can end it."""
        with self._lock:
            self._conversations[threading.current_thread()] = sock

    def leave(self) -> None:
        """Forget the conversation of the calling thread."""
        with self._lock:
            self._conversations.pop(threading.current_thread(), None)


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], stand_in: SmtpServer) -> None:
        self.stand_in = stand_in
        super().__init__(address, _Conversation)


class _Hangup(Exception):
    """This conversation ends now."""


class _Conversation(socketserver.BaseRequestHandler):
    server: _Listener

    def setup(self) -> None:
        self._stand_in = self.server.stand_in
        self._sock: socket.socket = self.request
        self._sock.settimeout(_IDLE_S)
        self._stand_in.enter(self._sock)
        self._reader = self._sock.makefile("rb")
        self._user = ""
        self._mail_from: str | None = None
        self._rcpt_to: list[str] = []

    def handle(self) -> None:
        with contextlib.suppress(_Hangup, OSError):
            if self._stand_in.tls == "implicit":
                self._start_tls()
            self._answer("banner", 220, "entrega stand-in ESMTP")
            while True:
                self._obey(self._line().decode("utf-8", "replace").strip())

    def finish(self) -> None:
        self._reader.close()
        self._sock.close()
        self._stand_in.leave()

    def _obey(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        verb = verb.upper()
        self._stand_in.verbs.append(verb)
        steps: Mapping[str, Callable[[str], None]] = {
            "EHLO": self._ehlo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "QUIT": self._quit,
        }
        if verb in steps:
            steps[verb](argument)
        else:
            self._say(*_PLAIN_ANSWERS.get(verb, (502, "5.5.2 command not known")))

    def _ehlo(self, _argument: str) -> None:
        tls = self._stand_in.tls
        offered = [f"SIZE {self._stand_in.max_size}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        if tls == "starttls" and not self._is_encrypted:
            offered.append("STARTTLS")
        if self._stand_in.credentials and (tls == "none" or self._is_encrypted):
            offered.append(f"AUTH {self._stand_in.mechanisms}")
        self._answer("ehlo", 250, "\n".join(["stand-in", *offered]))

    def _starttls(self, _argument: str) -> None:
        if self._stand_in.tls != "starttls" or self._is_encrypted:
            self._say(502, "5.5.1 not offered")
            return
        if self._answer("starttls", 220, "2.0.0 go on"):
            self._start_tls()

    def _auth(self, argument: str) -> None:
        mechanism, _, first = argument.partition(" ")
        given = ("", "")
        if mechanism.upper() == "PLAIN":
            _, user, password = (_decoded(first or self._asked("")) + "\0\0").split("\0")[:3]
            given = (user, password)
        elif mechanism.upper() == "LOGIN":
            given = (_decoded(first or self._asked("Username:")), _decoded(self._asked("Password:")))
        if given != self._stand_in.credentials:
            self._answer("auth", 535, "5.7.8 bad credentials")
        elif self._answer("auth", 235, "2.7.0 welcome"):
            self._user = given[0]

    def _mail(self, argument: str) -> None:
        size = re.search(r"\bSIZE=(\d+)", argument, re.IGNORECASE)
        if self._stand_in.credentials and not self._user:
            self._say(530, "5.7.0 authentication required")
        elif size and int(size.group(1)) > self._stand_in.max_size:
            self._say(552, "5.3.4 message too big")
        elif self._answer("mail", 250, "2.1.0 ok"):
            self._mail_from = _path(argument)

    def _rcpt(self, argument: str) -> None:
        address = _path(argument)
        if self._mail_from is None:
            self._say(503, "5.5.1 MAIL first")
        elif self._answer("rcpt", 250, "2.1.5 ok", address):
            self._rcpt_to.append(address)

    def _data(self, _argument: str) -> None:
        if not self._rcpt_to:
            self._say(503, "5.5.1 RCPT first")
        elif self._answer("data", 354, "end with a dot"):
            self._settle(self._message())

    def _message(self) -> bytes:
        """Read up to a dot that stands alone between two CRLFs, and nothing looser than that."""
        if fault := self._stand_in.take("body"):
            self._line()
            self._misbehave(fault, 451, "4.3.0 interrupted")
        lines: list[bytes] = []
        while (line := self._line()) != b".\r\n" or (lines and not lines[-1].endswith(b"\r\n")):
            lines.append(line)
        return b"".join(line[1:] if line.startswith(b".") else line for line in lines)

    def _settle(self, raw: bytes) -> None:
        effect = self._effect(raw)
        fault = self._stand_in.take("after_dot")
        fits = len(raw) <= self._stand_in.max_size
        self._stand_in.record(effect, accepted=fits and (fault is None or fault.accepts))
        self._forget()
        if not fits:
            self._say(552, "5.3.4 message too big")
        elif fault is None:
            self._say(250, _queued(effect))
        else:
            self._misbehave(fault, 250, _queued(effect))

    def _effect(self, raw: bytes) -> Effect:
        found = re.search(rb"(?im)^message-id:\s*(<([^@>\r\n]*)[^>\r\n]*>)", raw)
        message_id, delivery_id = (found.group(1).decode(), found.group(2).decode()) if found else ("", "")
        sender, readers = self._mail_from or "", tuple(self._rcpt_to)
        return Effect(message_id, delivery_id, sender, readers, len(raw), datetime.now(UTC), raw)

    def _rset(self, _argument: str) -> None:
        self._forget()
        self._say(250, "2.0.0 ok")

    def _quit(self, _argument: str) -> None:
        self._say(221, "2.0.0 bye")
        raise _Hangup

    def _forget(self) -> None:
        self._mail_from, self._rcpt_to = None, []

    def _answer(self, phase: Phase, code: int, text: str, address: str = "") -> bool:
        """Say the usual answer, or what a fault puts in its place; True when the step went well."""
        fault = self._stand_in.take(phase, address)
        if fault is None:
            self._say(code, text)
            return code < 400  # noqa: PLR2004 - 4yz and 5yz refuse
        return self._misbehave(fault, code, text)

    def _misbehave(self, fault: Fault, code: int, text: str) -> bool:
        if fault.action in {"drop", "accept_then_drop"}:
            raise _Hangup
        if fault.action in {"silent", "accept_then_hang"}:
            self._stand_in.stopping.wait(fault.seconds)
            raise _Hangup
        code, text = (fault.code, fault.text) if fault.code else (code, text)
        self._say(code, text, drip_s=fault.seconds if fault.action == "drip" else 0)
        if fault.action == "drop_after_250" or code == _CLOSING or (fault.phase == "banner" and code not in _SUCCESS):
            raise _Hangup
        return code < 400  # noqa: PLR2004 - 4yz and 5yz refuse

    def _say(self, code: int, text: str, *, drip_s: float = 0) -> None:
        *head, last = text.split("\n")
        answer = "".join([f"{code}-{each}\r\n" for each in head] + [f"{code} {last}\r\n"]).encode()
        for piece in [answer[at : at + 1] for at in range(len(answer))] if drip_s else [answer]:
            self._sock.sendall(piece)
            if drip_s and self._stand_in.stopping.wait(drip_s):
                raise _Hangup

    def _asked(self, prompt: str) -> str:
        self._say(334, base64.b64encode(prompt.encode()).decode())
        return self._line().decode("ascii", "replace").strip()

    def _line(self) -> bytes:
        line: bytes = self._reader.readline(_MOST_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise _Hangup
        return line

    @property
    def _is_encrypted(self) -> bool:
        return isinstance(self._sock, ssl.SSLSocket)

    def _start_tls(self) -> None:
        context = self._stand_in.ssl_context
        if context is None:
            raise _Hangup
        self._reader.close()
        self._sock = context.wrap_socket(self._sock, server_side=True)
        self._reader = self._sock.makefile("rb")
        self._stand_in.enter(self._sock)


def _queued(effect: Effect) -> str:
    return f"2.0.0 Ok: queued as {effect.delivery_id[-12:].upper() or 'ANONYMOUS'}"


def _path(argument: str) -> str:
    found = re.search(r"<([^>]*)>", argument)
    return found.group(1) if found else ""


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        return ""
