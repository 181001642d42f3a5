"""Uncertain deliveries: what a look-up found, what is decided where nothing is proved; events: `ledger.inbound`.

Everything here is compare-and-set on state and fence, so that a receipt that comes meanwhile always wins.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from delivery.ports import Conclusion, Doubt
from ledger.database import transaction
from ledger.order import POISON, TIMES
from ledger.store import PostgresLedger

# Silence counts only where events were heard in each third of the window: one event at its start proves little.
_TAKE = text(f"""
    WITH picked AS (
      SELECT id FROM deliveries
      WHERE state = 'uncertain' AND environment = :environment
        AND (looked_at IS NULL OR looked_at < now() - :pause_s * interval '1 second')
      ORDER BY uncertain_since LIMIT :most FOR UPDATE SKIP LOCKED
    ), taken AS (
      UPDATE deliveries d SET looked_at = now() FROM picked WHERE d.id = picked.id
      RETURNING d.id, d.kind, d.account, d.producer, d.fence, d.attempts, d.tries, d.parks, d.created_at, d.person,
                d.resent, d.approved, d.hold_uncertain, d.uncertain_since, now() AS looked_at,
                {TIMES}
    )
    SELECT taken.*, payloads.body, people.data_key,
           extract(epoch FROM taken.looked_at - taken.uncertain_since)::float8 AS age_s,
           (SELECT count(DISTINCT least(2, floor(3 * extract(epoch FROM e.at - taken.uncertain_since) / w.seconds)))
              FROM inbound_events e WHERE e.account = taken.account AND w.seconds > 0
               AND e.at >= taken.uncertain_since
               AND e.at <= taken.uncertain_since + w.seconds * interval '1 second') = 3 AS listening
    FROM taken
    JOIN unnest(CAST(:kinds AS text[]), CAST(:windows AS float8[])) AS w (kind, seconds) ON w.kind = taken.kind
    LEFT JOIN payloads ON payloads.delivery_id = taken.id LEFT JOIN people ON people.person = taken.person
""")  # noqa: S608 - a piece of `ledger.order`

# What a person or a look-up would send again is not, when even its claim in quarantine cost a worker.
_CONCLUDE = text(f"""
    WITH ended AS (
      SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS int[]), CAST(:verdicts AS text[]),
                           CAST(:reasons AS text[]), CAST(:receipts AS text[]))
        AS ended (id, fence, verdict, reason, receipt)
    ), judged AS (
      SELECT e.id, e.fence, e.receipt, p.poison,
             CASE WHEN p.poison THEN 'poison' ELSE e.verdict END AS verdict,
             CASE WHEN p.poison THEN 'its workers died in every attempt, also when it was attempted alone'
                  ELSE e.reason END AS reason
      FROM ended e JOIN deliveries d ON d.id = e.id
      CROSS JOIN LATERAL (SELECT e.verdict IN ('absent', 'resend') AND {POISON} AS poison) p
    ), changed AS (
      UPDATE deliveries d
         SET state = CASE WHEN e.verdict = 'proved' THEN 'succeeded' WHEN e.verdict IN ('unconfirmed', 'poison')
                          THEN 'dead' ELSE 'waiting' END,
             receipt = coalesce(e.receipt, d.receipt),
             progress = CASE e.verdict WHEN 'proved' THEN coalesce(d.progress, 'sent') ELSE d.progress END,
             code = CASE WHEN e.verdict = 'proved' THEN 'ok' WHEN e.verdict IN ('unconfirmed', 'poison')
                         THEN e.verdict ELSE d.code END,
             reason = CASE e.verdict WHEN 'proved' THEN NULL ELSE e.reason END,
             resent = CASE e.verdict WHEN 'resend' THEN 1 ELSE d.resent END,
             next_at = now(), hinted_at = NULL,
             settled_at = CASE WHEN e.verdict IN ('proved', 'unconfirmed', 'poison') THEN now() END
      FROM judged e
      WHERE d.id = e.id AND d.fence = e.fence AND d.state = 'uncertain' AND e.verdict <> 'later'
      RETURNING d.id, e.verdict, e.reason
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT 'look-up', verdict, id, reason FROM changed
    )
    SELECT id FROM changed
""")  # noqa: S608 - a piece of `ledger.order`


@dataclass(frozen=True)
class PostgresDoubts:
    """The uncertain deliveries of a Postgres ledger."""

    ledger: PostgresLedger

    def take(self, *, pause: timedelta, window: Mapping[str, timedelta], most: int) -> list[Doubt]:
        """See `delivery.ports.Doubts.take`."""
        values = {
            "pause_s": pause.total_seconds(),
            "kinds": list(window),
            "windows": [each.total_seconds() for each in window.values()],
            "most": most,
            "environment": self.ledger.environment,
        }
        with transaction(self.ledger.engine) as connection:
            rows = connection.execute(_TAKE, values).all()
        doubts = []
        for row in rows:
            claimed = self.ledger.read(row)
            if claimed is not None:  # an erased person's delivery stays uncertain: nobody can be asked about it
                age = timedelta(seconds=row.age_s)
                doubts.append(Doubt(claimed, age, bool(row.hold_uncertain), bool(row.resent), row.listening))
        return doubts

    def conclude(self, conclusions: Iterable[Conclusion]) -> set[UUID]:
        """See `delivery.ports.Doubts.conclude`."""
        ended = list(conclusions)
        values = {
            "ids": [each.doubt.claimed.order.delivery_id for each in ended],
            "fences": [each.doubt.claimed.fence for each in ended],
            "verdicts": [each.verdict for each in ended],
            "reasons": [each.reason for each in ended],
            "receipts": [self.ledger.vault.proof(each.receipt.id) if each.receipt else None for each in ended],
        }
        with transaction(self.ledger.engine) as connection:
            return set(connection.execute(_CONCLUDE, values).scalars())
