"""Uncertain deliveries: what providers told later, what a look-up found, what is decided where nothing is proved.

Everything here is compare-and-set on state and fence, so that a receipt that comes meanwhile always wins.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from delivery.ports import Conclusion, Doubt
from ledger.canceling import call_back
from ledger.database import transaction
from ledger.order import POISON
from ledger.store import PostgresLedger

# An event may come before the answer of the send, after the lease, or after a resend was planned: whatever state the
# delivery is in, the proof settles it. Progress only moves forward; `failed` and `bounced` stand beside.
#
# A failure is told of one send. While another is under way it waits for that one's end; and once a second send has a
# receipt of its own, a failure under another receipt is the first one's and says nothing any more.
_ABSORB = text("""
    WITH picked AS (
      SELECT e.id, e.delivery_id, e.status, e.receipt, e.code,
             coalesce(d.resent = 1 AND e.receipt <> d.receipt AND e.status IN ('failed', 'bounced'), false) AS outdated
      FROM inbound_events e LEFT JOIN deliveries d ON d.id = e.delivery_id
      WHERE e.worked_at IS NULL
        AND NOT (coalesce(d.state, '') = 'attempting' AND coalesce(e.status, '') IN ('failed', 'bounced'))
      ORDER BY e.id LIMIT :most FOR UPDATE OF e SKIP LOCKED
    ), latest AS (
      SELECT delivery_id, max(receipt) AS receipt,
             max(array_position(ARRAY['sent', 'delivered', 'read'], status)) AS rank,
             max(status) FILTER (WHERE status IN ('failed', 'bounced')) AS failure,
             max(code) FILTER (WHERE status IN ('failed', 'bounced')) AS code
      FROM picked WHERE delivery_id IS NOT NULL AND NOT outdated GROUP BY delivery_id
    ), settled AS (
      UPDATE deliveries d
         SET state = CASE WHEN d.state = 'succeeded' THEN 'succeeded'
                          WHEN l.rank IS NULL AND l.failure IS NOT NULL THEN 'dead' ELSE 'succeeded' END,
             receipt = coalesce(d.receipt, l.receipt, 'confirmed by event'),
             progress = coalesce(l.failure, (ARRAY['sent', 'delivered', 'read'])[greatest(
                 l.rank, array_position(ARRAY['sent', 'delivered', 'read'], d.progress))]),
             code = CASE WHEN l.failure IS NOT NULL THEN coalesce(l.code, l.failure) ELSE 'ok' END,
             reason = CASE WHEN l.failure IS NOT NULL THEN 'the provider reported it as ' || l.failure END,
             lease_until = NULL, settled_at = coalesce(d.settled_at, now())
      FROM latest l WHERE d.id = l.delivery_id AND d.state NOT IN ('canceled', 'expired')
        AND NOT (d.state = 'attempting' AND l.rank IS NULL AND l.failure IS NOT NULL)
      RETURNING d.id, d.state, d.progress, d.fallback_id
    ), closed AS (
      UPDATE attempts a SET ended_at = now(), outcome = 'succeeded', code = 'confirmed'
      FROM settled s WHERE a.delivery_id = s.id AND a.ended_at IS NULL
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT 'provider', 'confirmed', id, progress FROM settled
    ), worked AS (
      UPDATE inbound_events e SET worked_at = now() FROM picked p WHERE e.id = p.id
    )
    SELECT count(*) AS n,
           (SELECT array_agg(fallback_id) FROM settled
            WHERE state = 'succeeded' AND progress NOT IN ('failed', 'bounced') AND fallback_id IS NOT NULL) AS unneeded
    FROM picked
""")

# Silence counts only where events were heard in each third of the window: one event at its start proves little.
_TAKE = text("""
    WITH picked AS (
      SELECT id FROM deliveries
      WHERE state = 'uncertain' AND (looked_at IS NULL OR looked_at < now() - :pause_s * interval '1 second')
      ORDER BY uncertain_since LIMIT :most FOR UPDATE SKIP LOCKED
    ), taken AS (
      UPDATE deliveries d SET looked_at = now() FROM picked WHERE d.id = picked.id
      RETURNING d.id, d.kind, d.account, d.producer, d.fence, d.attempts, d.tries, d.parks, d.created_at, d.person,
                d.resent, d.hold_uncertain, d.uncertain_since, now() AS looked_at,
                extract(epoch FROM d.expires_at - now())::float8 AS left_s
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
""")

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

    def absorb(self, *, most: int) -> int:
        """See `delivery.ports.Doubts.absorb`."""
        with transaction(self.ledger.engine) as connection:
            absorbed = connection.execute(_ABSORB, {"most": most}).one()
            call_back(connection, absorbed.unneeded or [])
            return int(absorbed.n)

    def take(self, *, pause: timedelta, window: Mapping[str, timedelta], most: int) -> list[Doubt]:
        """See `delivery.ports.Doubts.take`."""
        values = {
            "pause_s": pause.total_seconds(),
            "kinds": list(window),
            "windows": [each.total_seconds() for each in window.values()],
            "most": most,
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
            "receipts": [each.receipt.id if each.receipt else None for each in ended],
        }
        with transaction(self.ledger.engine) as connection:
            return set(connection.execute(_CONCLUDE, values).scalars())
