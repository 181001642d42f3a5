"""Keeps callbacks out of our own network: every address that a name stands for is checked, at each new connection.

The name is resolved once and the connection goes to an address of that very answer, so a name that answers differently
the second time (DNS rebinding) gains nothing. One forbidden address forbids the name: which one is picked must not be
luck.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from delivery.destinations import may_connect
from providers.connections import Unreachable

# Each costs up to the connection's time-out, and the call must end within its lease.
_MOST_TRIED = 2


@dataclass(frozen=True)
class PublicReach:
    """Resolves names for `providers.http.HttpClient`; only public addresses pass, in the sandbox also loopback.

    Attributes:
        resolve: Asks for addresses as `socket.getaddrinfo` does.
    """

    sandbox: bool
    resolve: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo

    def __call__(self, scheme: str, host: str, port: int) -> list[str]:
        """Return the first addresses of a host.

        Raises:
            Unreachable: An address is not public, or the scheme is not https; the message names neither.
            OSError: The name could not be resolved.
        """
        found = [str(each[4][0]) for each in self.resolve(host, port, type=socket.SOCK_STREAM)]
        if not found or not all(may_connect(ip_address(each), scheme, sandbox=self.sandbox) for each in found):
            raise Unreachable("the host stands for an address that is not public")
        return list(dict.fromkeys(found))[:_MOST_TRIED]
