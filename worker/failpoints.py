"""Named points where the fault suite ends or deceives a worker. Built in the sandbox alone, and only when asked for.

The points are wrappers around the ports (ledger, provider), so the engine knows nothing of them. A point is armed by a
file of its name; taking it is a rename, so one arming strikes once, in one of the workers.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from delivery.errors import Ambiguous, LedgerUnavailable
from delivery.outcomes import Receipt
from delivery.ports import Order, Provider, Wire
from ledger.store import PostgresLedger

if TYPE_CHECKING:
    from tasks.app import Entrega

Point = Literal[
    "before_accept", "after_accept", "after_claim", "before_send", "after_send", "before_settle", "after_commit"
]
FOLDER = "failpoints"
_EXIT_CODE = 86
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Failpoints:
    """The points of one process.

    Attributes:
        folder: Where files arm them; a file that struck stays there as `POINT.PID`, PID being whom it struck.
    """

    folder: Path

    def arm(self, point: Point, action: Literal["exit", "fail"], note: str = "") -> None:
        """Let a point strike once. Replaces what is armed there and did not strike yet.

        Args:
            note: Kept in the file, for whoever looks at what struck.
        """
        draft = self.folder / f".{point}"
        draft.write_text(f"{action} {note}")
        draft.replace(self.folder / point)

    def reach(self, point: Point, failure: Callable[[str], Exception]) -> None:
        """Pass a point: usually nothing happens.

        Args:
            failure: What `fail` raises, made of a sentence.

        Raises:
            Exception: What `failure` made, when the point was armed so.
        """
        taken = self.folder / f"{point}.{os.getpid()}"
        try:
            (self.folder / point).rename(taken)
        except FileNotFoundError:
            return
        action, _, note = taken.read_text().partition(" ")
        taken.rename(self.folder / f"{taken.name}.{note or 'struck'}")
        if action == "exit":
            os._exit(_EXIT_CODE)
        raise failure(f"the failpoint {point} said so")


@dataclass(frozen=True)
class BrittleLedger(PostgresLedger):
    """The ledger with points around what must not be lost between two steps."""

    failpoints: Failpoints

    def open(self, *args: Any, **options: Any) -> Any:
        """See `delivery.ports.Ledger.open`."""
        self.failpoints.reach("before_accept", LedgerUnavailable)
        opened = super().open(*args, **options)
        self.failpoints.reach("after_accept", LedgerUnavailable)
        return opened

    def claim(self, *args: Any, **options: Any) -> Any:
        """See `delivery.ports.Ledger.claim`."""
        claimed = super().claim(*args, **options)
        if claimed:
            self.failpoints.reach("after_claim", LedgerUnavailable)
        return claimed

    def claim_next(self, *args: Any, **options: Any) -> Any:
        """See `delivery.ports.Ledger.claim_next`."""
        claimed = super().claim_next(*args, **options)
        if claimed:
            self.failpoints.reach("after_claim", LedgerUnavailable)
        return claimed

    def settle(self, *args: Any, **options: Any) -> Any:
        """See `delivery.ports.Ledger.settle`."""
        self.failpoints.reach("before_settle", LedgerUnavailable)
        settled = super().settle(*args, **options)
        self.failpoints.reach("after_commit", LedgerUnavailable)
        return settled


@dataclass(frozen=True)
class BrittleProvider:
    """A provider with points around its call."""

    provider: Provider
    failpoints: Failpoints

    def send(self, order: Order) -> Receipt:
        """See `delivery.ports.Provider.send`."""
        self.failpoints.reach("before_send", Ambiguous)
        receipt = self.provider.send(order)
        self.failpoints.reach("after_send", Ambiguous)
        return receipt

    def look_up(self, order: Order) -> Receipt | None:
        """See `delivery.ports.Provider.look_up`."""
        return self.provider.look_up(order)

    def preview(self, order: Order) -> Wire:
        """See `delivery.ports.Provider.preview`."""
        return self.provider.preview(order)

    def probe(self) -> str:
        """See `delivery.ports.Provider.probe`."""
        return self.provider.probe()


@dataclass(frozen=True)
class BrittleProviders(Mapping[str, Provider]):
    """The providers of a worker, each with points around its call."""

    providers: Mapping[str, Provider]
    failpoints: Failpoints

    def __getitem__(self, account: str) -> Provider:
        """Return one of them."""
        return BrittleProvider(self.providers[account], self.failpoints)

    def __iter__(self) -> Iterator[str]:
        """Give their names."""
        return iter(self.providers)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.providers)


def brittle_ledger(ledger: PostgresLedger, folder: Path) -> BrittleLedger:
    """Return the same ledger with points."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return BrittleLedger(ledger.engine, ledger.vault, Failpoints(folder))


def fit_failpoints(app: "Entrega") -> None:
    """Put the points into a worker that is about to start, and say so loudly."""
    build = app.engine_factory
    if build is None:
        raise RuntimeError("failpoints are for workers, and this process has no engine")
    brittle = brittle_ledger(app.ledger, app.settings.entrega_data.resolve() / FOLDER)
    app.ledger = brittle

    def build_brittle() -> Any:
        engine = build()
        return replace(engine, providers=BrittleProviders(engine.providers, brittle.failpoints))

    app.engine_factory = build_brittle
    _log.warning("failpoints_fitted", folder=str(brittle.failpoints.folder), next="unset ENTREGA_FAILPOINTS")
