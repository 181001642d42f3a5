"""Where workers share a token whose refresh token changes at every renewal: the ledger, and never Redis alone.

A refresh token that is used twice ends its whole family at a careful provider, so one process at a time may renew, by
a lease in the ledger, and the new pair is stored before anybody works with it. Nothing here is cached: what stands in
the ledger is what counts, and it is asked once for each renewal.

Source: RFC 6749 section 6, and RFC 9700, OAuth 2.0 Security Best Current Practice, section 4.14.2, read 2026-11-22.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NoReturn, TypeVar

from delivery.credentials import Credential, CredentialStore
from delivery.errors import LedgerUnavailable, Permanent, Retryable
from providers.token_shelf import Token, is_sendable

Found = TypeVar("Found")


class GrantShelf:
    """One account's refresh token and the access token it brought. The source's own lock lets one thread in at a time.

    Args:
        store: The ledger's credentials.
        account: E.g. "crm:default".
    """

    strict = True

    def __init__(self, store: CredentialStore, account: str) -> None:
        self._store = store
        self._account = account
        self._using: Credential | None = None
        self._doubtful = False
        self._unsaved: tuple[int, Mapping[str, str]] | None = None

    def read(self) -> Token | None:
        """Return the token that was stored last.

        Raises:
            Permanent: No credential was ever given: "misconfigured".
            Retryable: The ledger is away: "temporary".
        """
        self._save()
        found = self._find()
        return None if found is None else _token(found.secrets)

    def write(self, token: Token, *, keep_for: timedelta) -> None:  # noqa: ARG002 - a row does not expire
        """Store the new pair; until that is done nobody gets the token.

        Raises:
            Retryable: The ledger is away; the pair waits in memory and is stored first when anybody asks again.
        """
        using = self._used()
        secrets = {
            "refresh_token": token.refresh or using.secrets["refresh_token"],
            "access_token": token.text,
            "renew_at": repr(token.renew_at),
            "expires_at": repr(token.dies_at),
        }
        self._unsaved = using.version, secrets
        self._save()

    def lock(self, keep_for: timedelta) -> str | None:
        """Take the right to renew, for the whole cluster."""
        self._using = self._tried(lambda: self._store.begin_renewal(self._account, keep_for=keep_for))
        self._doubtful = False
        return str(self._using.version) if self._using else None

    def unlock(self, holder: str) -> None:  # noqa: ARG002 - what we hold is known
        """Give the right back; while a pair waits to be stored nobody else may renew, as far as the lease goes."""
        if self._unsaved is not None:
            return
        try:
            self._store.end_renewal(self._account, self._used(), doubtful=self._doubtful)
        except LedgerUnavailable:
            return  # the lease ends by itself

    def grant(self) -> Mapping[str, str]:
        """Ask with the refresh token that stands in the ledger; until an answer comes, it may be used up."""
        self._doubtful = True
        return {"grant_type": "refresh_token", "refresh_token": self._used().secrets["refresh_token"]}

    def refused(self) -> str:
        """Name the way to a new credential, and what may have used the old one up."""
        self._doubtful = False
        since = self._used().unproven_since
        step = f"authorise again, then: entrega accounts set {self._account}"
        if since is None:
            return step
        return f"a renewal begun at {since:%Y-%m-%d %H:%M:%S} UTC was never stored and may have replaced it; {step}"

    def _used(self) -> Credential:
        if self._using is None:
            raise RuntimeError("a grant is used under the lock only")
        return self._using

    def _save(self) -> None:
        if self._unsaved is None:
            return
        version, secrets = self._unsaved
        stored = self._tried(lambda: self._store.replace(self._account, version, secrets))
        self._unsaved = None
        if not stored:  # an operator gave a new credential meanwhile, or our lease ended and another renewed
            raise Retryable(f"the credential of {self._account} was changed during a renewal", code="temporary")

    def _find(self) -> Credential | None:
        found = self._tried(lambda: self._store.find(self._account))
        if found is None or not is_sendable(found.secrets.get("refresh_token", "")):
            message = f"{self._account} has no refresh token; enter it with: entrega accounts set {self._account}"
            raise Permanent(message, code="misconfigured")
        return found

    def _tried(self, ask: Callable[[], Found]) -> Found:
        try:
            return ask()
        except LedgerUnavailable as err:
            _away(self._account, err)
        except ValueError as err:
            message = f"the credential of {self._account} cannot be opened; is a master key missing?"
            raise Permanent(message, code="misconfigured") from err


def _away(account: str, err: LedgerUnavailable) -> NoReturn:
    raise Retryable(f"the ledger with the credential of {account} is away", code="temporary") from err


def _token(secrets: Mapping[str, str]) -> Token | None:
    if "access_token" not in secrets:
        return None
    return Token(secrets["access_token"], float(secrets["renew_at"]), float(secrets["expires_at"]))
