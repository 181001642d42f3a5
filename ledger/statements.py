"""The statements of the hot path. Each takes arrays, so that many rows cost little more than one.

Every change is a compare-and-set on state and fence, and writes its attempt or audit row in the same transaction.
"""

from sqlalchemy import TextClause, text

from ledger.contacts import OPTED_OUT, SUPPRESSED
from ledger.order import CANCELABLE, RUNNING, SUSPECT, TIMES, UNBLOCKED
from ledger.order_hints import BY_PRIORITY, LANE


def _short(sql: str) -> TextClause:
    """Return a statement without its indentation: psycopg reads one of more than 4096 characters anew at each call."""
    return text(" ".join(sql.split()))


FIND_KEYS = text("""
    SELECT i.producer, i.key, i.body_hash, d.id, d.state, d.next_at
    FROM idempotency i JOIN deliveries d ON d.id = i.delivery_id
    JOIN unnest(CAST(:producers AS text[]), CAST(:keys AS text[])) AS wanted (producer, key)
      ON wanted.producer = i.producer AND wanted.key = i.key
""")

POINT_KEYS = text("""
    UPDATE idempotency i SET delivery_id = new.id
    FROM unnest(CAST(:producers AS text[]), CAST(:keys AS text[]), CAST(:ids AS uuid[])) AS new (producer, key, id)
    WHERE i.producer = new.producer AND i.key = new.key
""")

# One statement, so that a submit is one round trip. A row is opened when its payload was sealed with the person's own
# data key and it won every key it wants; the answer says which of the two was missing. The loop guard counts here, by
# an index that ends after as many rows as are too many: what one statement does not see yet, the next one counts.
# The rows travel as one JSON text: 26 arrays took a sixth of a bulk submit to write.
# A key that stands for a delivery of another environment, which is never sent here, is free.
# NOT IN is looked up in a hash, whatever the planner expects: a count for each row made 10,000 of them quadratic.
OPEN = _short("""
    WITH new AS (
      SELECT * FROM ROWS FROM (json_to_recordset(CAST(:rows AS json)) AS (
        id uuid, kind text, account text, producer text, priority smallint, send_at timestamptz, expires_at timestamptz,
        expires_s float8, hold smallint, person bytea, recipient text, body bytea, order_key text, fallback smallint,
        endpoint_id uuid, data_key bytea, data_key_is_new bool, marketing smallint, cancel_on_reply smallint,
        content bigint, environment text, held_code text, held_reason text, same_most int, same_since uuid,
        same_earlier int, may_be_refused bool, counted int
      )) WITH ORDINALITY AS new
    ), wanted AS (
      SELECT * FROM json_to_recordset(CAST(:wanted AS json))
        AS wanted (id uuid, producer text, key text, body_hash bytea, kept_s float8)
    ), known AS (
      SELECT p.person, p.data_key FROM (SELECT DISTINCT person FROM new) AS n CROSS JOIN LATERAL (
        SELECT person, data_key FROM people WHERE person = n.person LIMIT 1
      ) AS p
    ), made AS (
      INSERT INTO people (person, data_key)
      SELECT DISTINCT ON (person) person, data_key FROM new
      WHERE data_key_is_new AND NOT EXISTS (SELECT FROM known WHERE known.person = new.person)
      ORDER BY person
      ON CONFLICT DO NOTHING
      RETURNING person, data_key
    ), sealed AS (
      SELECT new.*, new.same_most IS NOT NULL AND new.same_earlier + (
               SELECT count(*) FROM (
                 SELECT FROM deliveries d
                 WHERE d.person = new.person AND d.content = new.content AND (d.id > new.same_since) IS TRUE
                   AND (d.producer = new.producer) IS TRUE AND new.same_most IS NOT NULL
                 LIMIT new.same_most
               ) AS same
             ) >= new.same_most AS looped
      FROM new JOIN (SELECT * FROM known UNION ALL SELECT * FROM made) AS k
        ON k.person = new.person AND k.data_key = new.data_key
    ), kept AS (
      INSERT INTO idempotency AS i (producer, key, body_hash, delivery_id, kept_until)
      SELECT producer, key, body_hash, id, now() + kept_s * interval '1 second'
      FROM wanted WHERE id IN (SELECT id FROM sealed WHERE NOT (looped AND may_be_refused)) ORDER BY producer, key
      ON CONFLICT (producer, key) DO UPDATE
         SET body_hash = excluded.body_hash, delivery_id = excluded.delivery_id, kept_until = excluded.kept_until
       WHERE i.kept_until <= now() OR EXISTS (
         SELECT FROM deliveries d JOIN new ON new.id = excluded.delivery_id
         WHERE d.id = i.delivery_id AND d.environment <> new.environment)
      RETURNING i.producer, i.key
    ), won AS (
      SELECT * FROM sealed
      WHERE id NOT IN (SELECT id FROM wanted WHERE (producer, key) NOT IN (SELECT producer, key FROM kept))
    ), opened AS (
      INSERT INTO deliveries (id, kind, account, producer, priority, state, next_at, hinted_at, expires_at,
                              lifetime, hold_uncertain, person, recipient, order_key, fallback, endpoint_id,
                              marketing, cancel_on_reply, content, environment, counted, code, reason)
      SELECT id, kind, account, producer, priority,
             CASE WHEN held_code IS NOT NULL OR looped THEN 'held' WHEN send_at > now() THEN 'waiting' ELSE 'ready' END,
             greatest(send_at, now()),
             CASE WHEN held_code IS NOT NULL OR looped OR send_at > now() THEN NULL ELSE now() END,
             coalesce(expires_at, greatest(send_at, now()) + expires_s * interval '1 second'),
             coalesce(expires_at - greatest(send_at, now()), expires_s * interval '1 second'),
             hold, person, recipient, order_key, fallback, endpoint_id, marketing, cancel_on_reply, content,
             environment, counted, CASE WHEN looped THEN :loop_code ELSE held_code END,
             CASE WHEN looped THEN :loop_reason ELSE held_reason END
      FROM won ORDER BY ordinality
      RETURNING id, state, next_at, producer
    ), stored AS (
      INSERT INTO payloads (delivery_id, body) SELECT id, body FROM won
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id) SELECT producer, 'accepted', id FROM opened
    )
    SELECT new.id, opened.state, opened.next_at, sealed.id IS NOT NULL AS is_sealed, sealed.looped
    FROM new LEFT JOIN opened ON opened.id = new.id LEFT JOIN sealed ON sealed.id = new.id
""")

# Every path to a provider passes here, so this is where a delivery of another environment is stopped and held.
# Marketing to a person who opted out ends here, however long ago it was accepted, and starts no fallback.
# A held account holds its deliveries here, before an attempt is begun: nothing is burned and nobody is called. It is
# looked at twice: the lock waits for whoever opens the account just now, who would not see these deliveries. One
# suspect at a time is attempted in the whole cluster: the row in `quarantine` is its place, freed by the settle or by
# the end of the lease. A conflicting insert waits for the other claim and sees what it left, whatever the snapshot.
_FOR_GOOD = "('opted_out', 'suppressed')"
_CLAIM = f"""
    picked AS (
      SELECT d.id, d.account, d.kind, d.order_key, d.fence, {SUSPECT} AS suspect,
             CASE WHEN d.environment <> :here THEN 'other_environment' WHEN {OPTED_OUT} THEN 'opted_out'
                  WHEN {SUPPRESSED} THEN 'suppressed'
                  WHEN a.held_reason IS NOT NULL THEN 'account_held' END AS stop
      FROM deliveries d LEFT JOIN accounts a ON a.name = d.account
      WHERE d.id = ANY(CAST(:ids AS uuid[])) AND d.state IN ('ready', 'waiting')
        AND d.next_at <= now() AND d.expires_at > now() AND {RUNNING}
        AND {UNBLOCKED}
      FOR UPDATE OF d SKIP LOCKED
    ), lease AS (
      SELECT key AS kind, value::float8 AS seconds FROM json_each_text(CAST(:leases AS json))
    ), alone AS (
      INSERT INTO quarantine AS q (name, delivery_id, until)
      SELECT 'poison', p.id, now() + lease.seconds * interval '1 second'
      FROM picked p JOIN lease ON lease.kind = p.kind
      WHERE p.suspect AND p.stop IS NULL ORDER BY p.id LIMIT 1
      ON CONFLICT (name) DO UPDATE SET delivery_id = excluded.delivery_id, until = excluded.until
       WHERE q.until <= now()
      RETURNING q.delivery_id
    ), shut AS (
      SELECT a.name, a.held_reason FROM accounts a
      WHERE a.held_reason IS NOT NULL AND a.name IN (SELECT account FROM picked WHERE stop = 'account_held')
      FOR SHARE
    ), stopped AS (
      UPDATE deliveries d
         SET state = CASE WHEN p.stop NOT IN {_FOR_GOOD} THEN 'held' WHEN {CANCELABLE} THEN 'canceled'
                          ELSE 'dead' END,
             code = p.stop, settled_at = CASE WHEN p.stop IN {_FOR_GOOD} THEN now() END,
             fallback = CASE WHEN p.stop IN {_FOR_GOOD} THEN 0 ELSE d.fallback END,
             reason = CASE p.stop WHEN 'opted_out' THEN 'the person asked for no marketing'
                                  WHEN 'suppressed' THEN 'the person was erased, and nothing is accepted for them'
                                  WHEN 'account_held' THEN shut.held_reason
                                  ELSE 'accepted in ' || d.environment || ', never sent from ' || :here END
      FROM picked p LEFT JOIN shut ON shut.name = p.account
      WHERE d.id = p.id AND (p.stop <> 'account_held' OR shut.name IS NOT NULL)
      RETURNING d.id, d.account, d.state, d.reason
    ), noted AS (
      INSERT INTO audit (actor, action, delivery_id, account, reason)
      SELECT :worker, state, id, account, reason FROM stopped
    ), taken AS (
      UPDATE deliveries d
         SET state = 'attempting', fence = d.fence + 1, attempts = d.attempts + 1,
             lease_until = now() + lease.seconds * interval '1 second'
      FROM picked p, lease
      WHERE d.id = p.id AND p.stop IS NULL AND lease.kind = d.kind
        AND (NOT p.suspect OR p.id IN (SELECT delivery_id FROM alone))
      RETURNING d.id, d.kind, d.account, d.producer, d.fence, d.attempts, d.tries, d.parks, d.created_at, d.person,
                d.resent, d.approved, {TIMES}
    ), begun AS (
      INSERT INTO attempts (delivery_id, n, fence, worker, started_at)
      SELECT id, attempts, fence, :worker, now() FROM taken
    )"""  # noqa: S608 - pieces of `ledger.order`
_CLAIMED = """
    SELECT taken.*, payloads.body, people.data_key
    FROM taken LEFT JOIN payloads ON payloads.delivery_id = taken.id LEFT JOIN people ON people.person = taken.person
"""
_OVERTAKEN = """overtaken AS (
      INSERT INTO audit (actor, action, delivery_id, reason)
      SELECT :worker, 'overtaken', e.id, 'stuck for too long: ' || p.id || ' of the same order key went ahead of it'
      FROM picked p JOIN deliveries e ON e.order_key = p.order_key AND e.id < p.id
       AND e.state IN ('ready', 'waiting', 'attempting', 'uncertain')
      WHERE p.order_key IS NOT NULL AND p.fence = 0 AND p.id IN (SELECT id FROM taken)
    )"""
CLAIM = _short(f"WITH {_CLAIM}, {_OVERTAKEN} {_CLAIMED}")
CLAIM_NEXT = _short(f"""
    WITH next AS (
      SELECT f.id FROM {BY_PRIORITY} CROSS JOIN LATERAL (
        SELECT d.id FROM deliveries d
        WHERE {LANE} AND d.priority = p.priority AND d.state = 'ready' AND d.order_key IS NULL
          AND d.next_at <= now() AND d.expires_at > now() AND NOT {SUSPECT} AND {RUNNING}
        ORDER BY d.next_at LIMIT :most FOR UPDATE SKIP LOCKED
      ) f LIMIT :most
    ), {_CLAIM.replace("CAST(:ids AS uuid[])", "ARRAY(SELECT id FROM next) || CAST(:first AS uuid[])")} {_CLAIMED}
""")  # noqa: S608 - pieces of `ledger.order` and `ledger.order_hints`

# A receipt may come after the lease ended and the sweep moved the row. As long as nobody claimed it since (same fence),
# the proof wins, unless the provider told meanwhile that this very message failed. An attempt that a closed gate
# stopped is undone as if it had never been begun. The limit says how many rows there are: the planner would expect a
# hundred, and read the whole of a table that it believes to be small.
SETTLE = _short("""
    WITH ended AS (
      SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS ended (
        id uuid, fence int, state text, outcome text, code text, reason text, wait_s float8, parked bool, burned bool,
        receipt text, http_status int, provider_code text, duration_ms float8, paced bool
      ) LIMIT :many
    ), changed AS (
      UPDATE deliveries d
         SET state = e.state, lease_until = NULL, code = e.code, reason = e.reason,
             receipt = coalesce(e.receipt, d.receipt),
             progress = CASE WHEN e.state = 'succeeded' THEN 'sent' ELSE d.progress END,
             next_at = now() + coalesce(e.wait_s, 0) * interval '1 second',
             hinted_at = CASE WHEN e.state = 'waiting' AND NOT e.parked AND NOT e.paced AND e.wait_s <= :short_s
                              THEN now() + e.wait_s * interval '1 second' END,
             parks = d.parks + e.parked::int,
             attempts = d.attempts - (NOT e.burned)::int,
             tries = CASE WHEN e.state = 'waiting' AND e.burned
                          THEN jsonb_set(d.tries, ARRAY[e.code], to_jsonb(coalesce((d.tries ->> e.code)::int, 0) + 1))
                          ELSE d.tries END,
             uncertain_since = CASE WHEN e.state = 'uncertain' THEN now() END,
             stuck_since = CASE WHEN e.state = 'uncertain' OR e.parked THEN coalesce(d.stuck_since, now())
                                ELSE d.stuck_since END,
             settled_at = CASE WHEN e.state IN ('succeeded', 'dead') THEN now() END
      FROM ended e
      WHERE d.id = e.id AND d.fence = e.fence
        AND (d.state = 'attempting' OR (e.state = 'succeeded' AND d.state IN ('uncertain', 'waiting', 'ready', 'dead')
                                        AND (coalesce(d.progress, '') NOT IN ('failed', 'bounced')
                                             OR d.receipt <> e.receipt)))
      RETURNING d.id, d.account, e.fence, e.state, e.burned, e.code, e.reason, d.fallback_id
    ), left_quarantine AS (
      UPDATE quarantine q SET until = '-infinity' FROM changed c WHERE q.delivery_id = c.id
    ), closed AS (
      UPDATE attempts a
         SET ended_at = now(), outcome = e.outcome, code = e.code, http_status = e.http_status,
             provider_code = e.provider_code, duration_ms = e.duration_ms, wait_s = e.wait_s
      FROM ended e JOIN changed c ON c.id = e.id
      WHERE a.delivery_id = e.id AND a.fence = e.fence AND e.burned
    ), undone AS (
      DELETE FROM attempts a USING changed c WHERE a.delivery_id = c.id AND a.fence = c.fence AND NOT c.burned
    ), shut AS (
      INSERT INTO accounts AS acc (name, held_reason, held_code, held_at)
      SELECT DISTINCT ON (account) account, reason, code, now() FROM changed WHERE state = 'held' ORDER BY account, id
      ON CONFLICT (name) DO UPDATE
         SET held_reason = excluded.held_reason, held_code = excluded.held_code, held_at = excluded.held_at
       WHERE acc.held_reason IS NULL
      RETURNING name, held_reason
    ), noted AS (
      INSERT INTO audit (actor, action, account, reason) SELECT 'system', 'held', name, held_reason FROM shut
    )
    SELECT id, CASE WHEN state = 'succeeded' THEN fallback_id END AS unneeded FROM changed
""")

FREE_LEASES = text("""
    WITH lost AS (
      SELECT id FROM deliveries WHERE state = 'attempting' AND lease_until < now()
      ORDER BY lease_until LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), freed AS (
      UPDATE deliveries d
         SET lease_until = NULL, next_at = now(), hinted_at = NULL,
             code = CASE WHEN d.kind = ANY(CAST(:idempotent AS text[]))
                          AND coalesce((d.tries ->> 'lease_lost')::int, 0) >= :retries THEN 'poison'
                         ELSE 'lease_lost' END,
             reason = 'the worker that held this delivery stopped answering during the attempt',
             tries = jsonb_set(d.tries, '{lease_lost}', to_jsonb(coalesce((d.tries ->> 'lease_lost')::int, 0) + 1)),
             state = CASE WHEN d.kind <> ALL(CAST(:idempotent AS text[])) THEN 'uncertain'
                          WHEN coalesce((d.tries ->> 'lease_lost')::int, 0) >= :retries THEN 'dead'
                          ELSE 'waiting' END,
             uncertain_since = CASE WHEN d.kind <> ALL(CAST(:idempotent AS text[])) THEN now() END,
             stuck_since = CASE WHEN d.kind <> ALL(CAST(:idempotent AS text[])) THEN coalesce(d.stuck_since, now())
                                ELSE d.stuck_since END,
             settled_at = CASE WHEN d.kind = ANY(CAST(:idempotent AS text[]))
                                AND coalesce((d.tries ->> 'lease_lost')::int, 0) >= :retries THEN now() END
      FROM lost WHERE d.id = lost.id
      RETURNING d.id, d.fence, d.state
    ), closed AS (
      UPDATE attempts a
         SET ended_at = now(), code = 'lease_lost',
             outcome = CASE f.state WHEN 'waiting' THEN 'deferred' WHEN 'dead' THEN 'rejected' ELSE f.state END
      FROM freed f WHERE a.delivery_id = f.id AND a.fence = f.fence
    )
    SELECT state, count(*) AS n FROM freed GROUP BY state
""")

# While everything is paused no time runs out: `resume` gives what is late an hour.
EXPIRE = text(f"""
    WITH late AS (
      SELECT id FROM deliveries WHERE state IN ('ready', 'waiting') AND expires_at <= now() AND {RUNNING}
      ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), ended AS (
      UPDATE deliveries d
         SET state = CASE WHEN d.attempts = 0 THEN 'expired' ELSE 'dead' END,
             reason = CASE WHEN d.attempts = 0 THEN 'its time ran out before an attempt was possible'
                           ELSE 'its time ran out in the fallback queue; last: ' || coalesce(d.reason, '?') END,
             code = coalesce(d.code, 'expired'), settled_at = now()
      FROM late WHERE d.id = late.id
      RETURNING d.id, d.state, d.reason
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT 'sweep', state, id, reason FROM ended
    )
    SELECT state, count(*) AS n FROM ended GROUP BY state
""")  # noqa: S608 - a piece of `ledger.order`
