"""The providers of this process: one for each account, built when it is first needed and again when it is changed."""

import threading
from collections.abc import Callable, Iterator, Mapping

import structlog

from config.settings import Settings
from delivery.alerts import Alert
from delivery.callbacks import Callback
from delivery.errors import LedgerUnavailable, Permanent, Retryable
from delivery.ports import Provider
from ledger.accounts import Accounts, Added
from providers.unconfigured import Unconfigured

_log = structlog.get_logger(__name__)
_CODE = "misconfigured"


class Providers(Mapping[str, Provider]):
    """One provider by account, e.g. "crm:default", and one for all callbacks, whose accounts are hosts.

    Each is built apart: in the place of one that cannot be built stands one that holds its deliveries and says why.

    Args:
        build: Makes the provider of an account from its settings.
        alarm: Told of an account that cannot be built.
    """

    def __init__(
        self,
        accounts: Accounts,
        common: Settings,
        build: Callable[[str, Settings], Provider],
        *,
        alarm: Callable[[Alert], object],
    ) -> None:
        self._accounts = accounts
        self._build = build
        self._alarm = alarm
        self._lock = threading.Lock()
        self._fixed = {name: self._apart(name, common) for name in (*accounts.defaults, Callback.service)}
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
            return self._unusable(account, f"{found.issue}; run: entrega accounts add {account}")
        return self._apart(account, found.settings)

    def _apart(self, account: str, settings: Settings) -> Provider:
        try:
            return self._build(account, settings)
        except LedgerUnavailable:
            raise
        except Permanent as err:
            return self._unusable(account, f"set it again ({err})")
        except Exception as err:  # noqa: BLE001 - whatever is wrong with one account must not stop the others
            _log.exception("account_unusable", account=account)
            return self._unusable(account, f"correct its spec or settings ({type(err).__name__}; see the log)")

    def _unusable(self, account: str, step: str) -> Provider:
        service = account.partition(":")[0]
        reason = "the account cannot be used; its deliveries are held, those of other accounts go on"
        self._alarm(Alert("P1", account, service, _CODE, reason, step))
        return Unconfigured(account, step)
