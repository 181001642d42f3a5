"""The accounts there are: `default` of each service, from the environment, and those that operators added, sealed here.

Each process has a copy that is a few seconds old at most, so that an account is added, changed and removed without a
restart.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Row, text

from config.account import account_settings
from config.policy import Spec
from config.settings import ConfigurationError, Settings
from delivery.errors import LedgerUnavailable
from ledger.database import transaction
from ledger.sealing import MasterKeys

FRESH_S = 2.0

_READ = text("SELECT name, version, settings FROM accounts WHERE settings IS NOT NULL ORDER BY name")
_PUT = text("""
    WITH put AS (
      INSERT INTO accounts AS a (name, settings) VALUES (:name, :settings)
      ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, version = a.version + 1
      RETURNING name
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, :action, name, :reason FROM put
""")
# No delivery that is still open is left without its account.
_REMOVE = text("""
    WITH removed AS (
      UPDATE accounts a SET settings = NULL, version = a.version + 1
      WHERE name = :name AND settings IS NOT NULL AND NOT EXISTS (
        SELECT FROM deliveries d
        WHERE d.account = a.name AND d.state IN ('ready', 'waiting', 'attempting', 'uncertain', 'held')
      )
      RETURNING name
    ), gone AS (
      DELETE FROM credentials c USING removed r WHERE c.account = r.name
    )
    INSERT INTO audit (actor, action, account, reason) SELECT :actor, 'account removed', name, :reason FROM removed
    RETURNING id
""")


@dataclass(frozen=True)
class Added:
    """An account that an operator added.

    Attributes:
        version: Grows with each change.
        values: Its own, by variable; empty where they cannot be opened.
        settings: What its adapter is built from; None where it cannot be used.
        issue: Why not.
    """

    version: int
    values: Mapping[str, str] = field(repr=False)
    settings: Settings | None
    issue: str | None = None


class Accounts(Collection[str]):
    """The names of all accounts, and the settings of each.

    Args:
        masters: Seal the values.
        common: The settings of this process, which are also those of every account `default`.
        specs: The integrations that have accounts.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        masters: MasterKeys,
        common: Settings,
        specs: Mapping[str, Spec],
        *,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._masters = masters
        self._common = common
        self._specs = specs
        self._ticks = ticks
        self._lock = threading.Lock()
        self._known: Mapping[str, Added] = {}
        self._read_at: float | None = None
        self.defaults = tuple(f"{name}:default" for name in specs)

    def __iter__(self) -> Iterator[str]:
        """Give every name, those from the environment first."""
        return iter((*self.defaults, *self.added()))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.defaults) + len(self.added())

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such an account; the ledger is asked only about added ones."""
        return name in self.defaults or name in self.added()

    def added(self, *, fresh: bool = False) -> Mapping[str, Added]:
        """Return the accounts that operators added, by name.

        Args:
            fresh: Read them now, however young the copy is.

        Raises:
            LedgerUnavailable: They cannot be read, and never were.
        """
        with self._lock:
            young = self._read_at is not None and self._ticks() - self._read_at < FRESH_S
            if fresh or not young:
                self._refresh(must=fresh)
            return self._known

    def _refresh(self, *, must: bool) -> None:
        try:
            self._known = self._read()
        except LedgerUnavailable:  # what was known last serves on
            if must or self._read_at is None:
                raise
        self._read_at = self._ticks()

    def settings(self, name: str) -> Settings:
        """Return what an account is set up with.

        Raises:
            LookupError: There is no such account, or it cannot be used.
            LedgerUnavailable: It cannot be read.
        """
        if name in self.defaults:
            return self._common
        found = self.added()[name]
        if found.settings is None:
            raise LookupError(found.issue)
        return found.settings

    def put(self, name: str, values: Mapping[str, str], *, actor: str, reason: str) -> bool:
        """Add an account, or change the values that are named and keep its others; with an audit row.

        Returns:
            True when it is new.

        Raises:
            ConfigurationError: A value is missing or wrong; nothing was written.
        """
        before = self.added(fresh=True).get(name)
        whole = {**(before.values if before else {}), **values}
        account_settings(self._common, self._specs[name.partition(":")[0]], whole)
        sealed = self._masters.wrap(json.dumps(whole).encode(), _place(name))
        action = "account changed" if before else "account added"
        with transaction(self._engine) as connection:
            connection.execute(
                _PUT, {"name": name, "settings": sealed, "actor": actor, "action": action, "reason": reason}
            )
        self.added(fresh=True)
        return before is None

    def remove(self, name: str, *, actor: str, reason: str) -> bool:
        """Forget an added account and its credential, with an audit row; False while deliveries of it are open."""
        with transaction(self._engine) as connection:
            done = connection.scalar(_REMOVE, {"name": name, "actor": actor, "reason": reason}) is not None
        self.added(fresh=True)
        return done

    def _read(self) -> Mapping[str, Added]:
        with transaction(self._engine) as connection:
            rows = connection.execute(_READ).all()
        return {row.name: self._current(row) for row in rows if row.name.partition(":")[0] in self._specs}

    def _current(self, row: Row[Any]) -> Added:
        before = self._known.get(row.name)
        if before is not None and before.version == row.version:
            return before
        return self._opened(row.name, row.version, bytes(row.settings))

    def _opened(self, name: str, version: int, sealed: bytes) -> Added:
        try:
            values = json.loads(self._masters.unwrap(sealed, _place(name)))
        except ValueError:
            return Added(version, {}, None, "its values cannot be opened; is a master key missing?")
        try:
            return Added(version, values, account_settings(self._common, self._specs[name.partition(":")[0]], values))
        except ConfigurationError as err:
            return Added(version, values, None, "; ".join(f"{each}: {why}" for each, why in err.issues.items()))


def _place(name: str) -> str:
    return f"accounts.settings/{name}"
