"""The providers of this process: one for each account, built when it is first needed and again when it is changed."""

import threading
from collections.abc import Callable, Iterator, Mapping

from config.settings import Settings
from delivery.callbacks import Callback
from delivery.errors import LedgerUnavailable, Retryable
from delivery.ports import Provider
from ledger.accounts import Accounts, Added
from providers.unconfigured import Unconfigured


class Providers(Mapping[str, Provider]):
    """One provider by account, e.g. "crm:default", and one for all callbacks, whose accounts are hosts.

    Args:
        build: Makes the provider of an account from its settings.
    """

    def __init__(self, accounts: Accounts, common: Settings, build: Callable[[str, Settings], Provider]) -> None:
        self._accounts = accounts
        self._build = build
        self._lock = threading.Lock()
        self._fixed = {name: build(name, common) for name in (*accounts.defaults, Callback.service)}
        self._made: dict[str, tuple[Added, Provider]] = {}

    def __getitem__(self, account: str) -> Provider:
        """Return the provider of an account.

        Raises:
            KeyError: There is no such account.
            Retryable: The ledger is away, and the account was never needed here before.
        """
        fixed = self._fixed.get(account) or self._fixed.get(account.partition(":")[0])
        return fixed or self._added(account)

    def __iter__(self) -> Iterator[str]:
        """Give the name of every account."""
        return iter((*self._fixed, *self._accounts.added()))

    def __len__(self) -> int:
        """Return how many accounts there are."""
        return len(self._fixed) + len(self._accounts.added())

    def _added(self, account: str) -> Provider:
        found = self._find(account)
        with self._lock:
            before = self._made.get(account)
            if before is None or before[0] is not found:
                before = self._made[account] = (found, self._built(account, found))
            return before[1]

    def _find(self, account: str) -> Added:
        try:
            # Another process may have accepted for an account that was added a moment ago.
            return self._accounts.added().get(account) or self._accounts.added(fresh=True)[account]
        except LedgerUnavailable as err:
            raise Retryable("the ledger with this account's settings is away", code="temporary") from err

    def _built(self, account: str, found: Added) -> Provider:
        if found.settings is None:
            return Unconfigured(account, f"{found.issue}; run: entrega accounts add {account}")
        return self._build(account, found.settings)
