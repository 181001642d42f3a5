"""Bulk replays: many dead letters at a pace, stopped by themselves when too many of them die again.

The pace lives in the rows (`next_at` one after the other), so that no client needs to stay; the sweep hints what is due
and asks `watch` whether a replay must stop.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Engine, text

from delivery.ids import new_id
from ledger.database import transaction
from ledger.letters import MATCHING, LetterFilter, Replayed, Signed, replay_in

# Of fewer a share says little.
_ENOUGH_ENDED = 10
# Rows put back in one transaction: about a second, far from the statement time-out.
_AT_ONCE = 5000

_COUNT = text(f"SELECT count(*) FROM deliveries d WHERE {MATCHING}")  # noqa: S608 - constants; values are parameters
# Rows that another operator is just working on are theirs.
_PICK = text(f"""
    SELECT d.id FROM deliveries d WHERE {MATCHING} ORDER BY d.id LIMIT :most FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - as above
_START = text("""
    INSERT INTO replays (id, actor, reason, filter, pace, threshold, threshold_unit, total)
    VALUES (:id, :actor, :reason, CAST(:filter AS jsonb), :pace, :threshold, :unit, :total)
""")
# The replay's own row decides which of two sweeps stops it.
_STOP = text("""
    WITH standing AS (
      SELECT r.id, r.threshold, r.threshold_unit,
             count(d.id) FILTER (WHERE d.state IN ('succeeded', 'dead', 'expired')) AS ended,
             count(d.id) FILTER (WHERE d.state = 'dead') AS errors,
             count(d.id) FILTER (WHERE d.state IN ('ready', 'attempting', 'waiting', 'uncertain', 'held')) AS open
      FROM replays r LEFT JOIN deliveries d ON d.replay = r.id
      WHERE r.stopped_at IS NULL GROUP BY r.id
    ), judged AS (
      SELECT id, ended, errors, open,
             CASE threshold_unit WHEN 'errors' THEN errors > threshold
                                 ELSE ended >= :enough AND errors > threshold * ended END AS failing
      FROM standing
    )
    UPDATE replays r
       SET stopped_at = now(),
           stop_reason = CASE WHEN j.failing AND j.open > 0
                              THEN j.errors || ' of ' || j.ended || ' that ended were dead again' ELSE 'done' END
    FROM judged j WHERE r.id = j.id AND r.stopped_at IS NULL AND (j.open = 0 OR j.failing)
    RETURNING r.id, r.stop_reason
""")
# Again at every watch: what was under way at the stop, or just being claimed, follows when its attempt ended without
# success. What a lost lease left does not: its receipt may still come, and a dead letter would refuse it.
_PUT_BACK = text("""
    WITH rest AS (
      SELECT d.id, r.id AS replay
      FROM deliveries d JOIN replays r ON d.replay = r.id
      WHERE r.stop_reason <> 'done' AND r.stopped_at > now() - interval '1 day'
        AND (d.state IN ('ready', 'waiting') AND coalesce((d.tries ->> 'lease_lost')::int, 0) = 0
             OR d.state = 'uncertain' AND d.code = 'unconfirmed')
      LIMIT :most FOR UPDATE OF d SKIP LOCKED
    ), back AS (
      UPDATE deliveries d SET state = 'dead', settled_at = now(), hinted_at = NULL, replay = NULL
      FROM rest WHERE d.id = rest.id AND d.replay = rest.replay
      RETURNING d.id, rest.replay
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason)
      SELECT 'sweep', 'put_back', id, 'its replay ' || replay || ' was stopped' FROM back
    ), counted AS (
      UPDATE replays r SET put_back = r.put_back + b.n
      FROM (SELECT replay, count(*) AS n FROM back GROUP BY replay) b WHERE r.id = b.replay
    )
    SELECT count(*) FROM back
""")
_LIST = text("""
    SELECT r.*, count(d.id) FILTER (WHERE d.state = 'succeeded') AS succeeded,
           count(d.id) FILTER (WHERE d.state = 'dead') AS dead_again,
           count(d.id) FILTER (WHERE d.state IN ('ready', 'attempting', 'waiting', 'uncertain', 'held')) AS open
    FROM (SELECT * FROM replays ORDER BY started_at DESC LIMIT :most) r LEFT JOIN deliveries d ON d.replay = r.id
    GROUP BY r.id, r.actor, r.reason, r.filter, r.pace, r.threshold, r.threshold_unit, r.total, r.put_back,
             r.started_at, r.stopped_at, r.stop_reason
    ORDER BY r.started_at DESC
""")


@dataclass(frozen=True)
class StopRule:
    """When a replay stops by itself.

    Attributes:
        above: More than this is too much.
        unit: "share" of those that ended (0 to 1; counted once 10 ended), or "errors" as a number.
    """

    above: float = 0.2
    unit: Literal["share", "errors"] = "share"


@dataclass(frozen=True)
class BulkReplay:
    """A bulk replay and how it stands.

    Attributes:
        filter: What it took. Shape: {"account": "crm:default", "older_s": 3600.0}
        pace: Deliveries that become due in a second; None when all did at once.
        put_back: Dead letters again, by the stop.
        stop_reason: "done", or what stopped it; None while it runs.
    """

    id: UUID
    actor: str
    reason: str
    filter: Mapping[str, Any]
    pace: float | None
    threshold: float
    threshold_unit: str
    total: int
    succeeded: int
    dead_again: int
    open: int
    put_back: int
    started_at: datetime
    stopped_at: datetime | None
    stop_reason: str | None


@dataclass(frozen=True)
class Stopped:
    """A replay that `watch` ended: all through ("done"), or too many errors."""

    id: UUID
    reason: str


@dataclass(frozen=True)
class Replays:
    """Starts, lists and watches bulk replays."""

    engine: Engine

    def count(self, wanted: LetterFilter) -> int:
        """Return how many letters a replay by this filter would take."""
        with transaction(self.engine) as connection:
            return connection.scalar(_COUNT, wanted.values()) or 0

    def start(
        self, wanted: LetterFilter, signed: Signed, *, pace: float | None, stop: StopRule, most: int
    ) -> tuple[UUID | None, Replayed]:
        """Replay the oldest letters of a filter, all in one transaction.

        Args:
            pace: Deliveries that become due in a second; None for all at once.
            most: At most this many, so that nobody replays more than they were told.

        Returns:
            The replay's id, None where nothing matched, and what it changed.
        """
        replay = new_id()
        step = timedelta(seconds=1 / pace) if pace else timedelta()
        with transaction(self.engine) as connection:
            connection.execute(text("SET LOCAL statement_timeout = '60s'"))
            ids = list(connection.execute(_PICK, wanted.values() | {"most": most}).scalars())
            replayed = replay_in(connection, ids, signed, replay=replay, step=step)
            if not replayed.ids:
                return None, replayed
            rule = {"threshold": stop.above, "unit": stop.unit, "total": len(replayed.ids)}
            values = asdict(signed) | {"id": replay, "filter": json.dumps(wanted.said()), "pace": pace}
            connection.execute(_START, values | rule)
        return replay, replayed

    def watch(self) -> list[Stopped]:
        """Stop replays of which too many died again, put what they left back, and end those that are through."""
        with transaction(self.engine) as connection:
            rows = connection.execute(_STOP, {"enough": _ENOUGH_ENDED}).all()
        while self._put_back() == _AT_ONCE:
            pass
        return [Stopped(row.id, row.stop_reason) for row in rows]

    def recent(self, *, most: int = 20) -> list[BulkReplay]:
        """Return bulk replays, newest first."""
        with transaction(self.engine) as connection:
            rows = connection.execute(_LIST, {"most": most}).mappings()
            return [BulkReplay(**row) for row in rows]

    def _put_back(self) -> int:
        with transaction(self.engine) as connection:
            return connection.scalar(_PUT_BACK, {"most": _AT_ONCE}) or 0
