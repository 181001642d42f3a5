"""A credential that lives in the ledger because its provider replaces it: what it is, and who may replace it when."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True)
class Credential:
    """The secrets of one account, as they stand.

    Attributes:
        version: Grows with each change.
        secrets: By name, e.g. {"refresh_token": "..."}.
        unproven_since: A renewal began then, and none was stored since: the provider may have replaced the credential
            in an answer that nobody kept. None when the last renewal was stored.
    """

    version: int
    secrets: Mapping[str, str] = field(repr=False)
    unproven_since: datetime | None = None


class CredentialStore(Protocol):
    """Where credentials live. Every method raises `LedgerUnavailable` while it is away."""

    def find(self, account: str) -> Credential | None:
        """Return an account's credential, None when none was ever given.

        Raises:
            ValueError: It cannot be opened: a master key is missing.
        """
        ...

    def begin_renewal(self, account: str, *, keep_for: timedelta) -> Credential | None:
        """Take the right to renew, for the whole cluster and for a time; None while another has it.

        Returns:
            The credential, with `unproven_since` as it was before.

        Raises:
            ValueError: As `find`.
        """
        ...

    def replace(self, account: str, version: int, secrets: Mapping[str, str]) -> bool:
        """Store new secrets in place of that version and end the renewal; False when it was changed meanwhile."""
        ...

    def end_renewal(self, account: str, begun: Credential, *, doubtful: bool) -> None:
        """Give the right back where nothing new is to be stored.

        Args:
            begun: What `begin_renewal` returned.
            doubtful: The provider may have replaced the credential all the same: its answer was lost.
        """
        ...
