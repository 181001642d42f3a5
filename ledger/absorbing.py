"""What inbound events do, as statements. All of them run in the one transaction of `ledger.inbound.Inbound.absorb`."""

from sqlalchemy import text

from delivery.inbound import FAILURES, LADDER
from ledger.contacts import names_of
from ledger.order import CANCELABLE
from ledger.setting_aside import WAITS

_LADDER = "ARRAY['" + "','".join(LADDER) + "']"
_FAILED = "('" + "','".join(FAILURES) + "')"

# Any number: the same for everybody who absorbs. One at a time is fast enough and keeps events in order.
ALONE = text("SELECT pg_advisory_xact_lock(1164862322)")

# A failure is told of one send. While a send is under way it waits for that one's end: taken at once, it could let a
# fallback start beside a second send, and be forgotten by its answer. The deliveries are locked here, so that none of
# them is claimed or settled before the events did their work.
WAITING = text(f"""
    WITH waiting AS (
      SELECT e.id, e.kind, e.delivery_id, coalesce(e.status IN {_FAILED}, false) AS failed
      FROM inbound_events e
      WHERE e.worked_at IS NULL AND {WAITS}
        AND (CAST(:ids AS bigint[]) IS NULL OR e.id = ANY(CAST(:ids AS bigint[])))
        AND NOT (coalesce(e.status IN {_FAILED}, false)
                 AND EXISTS (SELECT FROM deliveries d WHERE d.id = e.delivery_id AND d.state = 'attempting'))
      ORDER BY e.id LIMIT :most
    ), held AS (
      SELECT d.id, d.state FROM deliveries d WHERE d.id IN (SELECT delivery_id FROM waiting) ORDER BY d.id FOR UPDATE
    )
    SELECT w.id, w.kind FROM waiting w LEFT JOIN held h ON h.id = w.delivery_id
    WHERE NOT (w.failed AND coalesce(h.state = 'attempting', false)) ORDER BY w.id
""")  # noqa: S608 - words of our own
WORKED = text("UPDATE inbound_events SET worked_at = now() WHERE id = ANY(CAST(:ids AS bigint[]))")

# An event may come before the answer of the send, after the lease, or after a resend was planned: whatever state the
# delivery is in, the proof settles it. What is told of one message (its receipt) climbs the ladder only: an event that
# was overtaken by an earlier one says nothing. A failure counts only for the message that the delivery stands by.
SETTLE = text(f"""
    WITH picked AS (
      SELECT e.account, e.delivery_id, e.receipt, e.status, e.code, e.provider_code,
             array_position({_LADDER}, e.status) AS step
      FROM inbound_events e
      WHERE e.id = ANY(CAST(:ids AS bigint[])) AND e.delivery_id IS NOT NULL AND e.status IS NOT NULL
        AND NOT EXISTS (
          SELECT FROM inbound_events o
          WHERE o.delivery_id = e.delivery_id AND o.receipt IS NOT DISTINCT FROM e.receipt AND o.worked_at IS NOT NULL
            AND o.account = e.account AND array_position({_LADDER}, o.status) > array_position({_LADDER}, e.status))
    ), told AS (
      SELECT DISTINCT ON (delivery_id, receipt) * FROM picked ORDER BY delivery_id, receipt, step DESC
    ), latest AS (
      SELECT DISTINCT ON (delivery_id) * FROM told ORDER BY delivery_id, status IN {_FAILED}, step DESC
    ), prior AS (
      SELECT d.id, d.state, l.receipt, l.status, l.step, l.code, l.provider_code,
             array_position({_LADDER}, CASE WHEN d.progress NOT IN {_FAILED} OR l.receipt IS NULL
                                              OR l.receipt = d.receipt THEN d.progress END) AS reached
      FROM latest l JOIN deliveries d ON d.id = l.delivery_id AND d.account = l.account
      WHERE d.state NOT IN ('canceled', 'expired')
        AND (l.status NOT IN {_FAILED} OR d.receipt IS NULL OR l.receipt IS NULL OR l.receipt = d.receipt)
    ), settled AS (
      UPDATE deliveries d
         SET state = CASE WHEN p.status IN {_FAILED} THEN 'dead' ELSE 'succeeded' END,
             progress = ({_LADDER})[greatest(p.step, p.reached)],
             receipt = coalesce(CASE WHEN d.progress IN {_FAILED} THEN p.receipt END, d.receipt, p.receipt,
                                CASE WHEN p.status NOT IN {_FAILED} THEN 'confirmed by event' END),
             code = CASE WHEN p.status IN {_FAILED} THEN coalesce(p.code, p.status) ELSE 'ok' END,
             reason = CASE WHEN p.status IN {_FAILED} THEN 'the provider reported it as ' || p.status
                           || coalesce(' (its code ' || p.provider_code || ')', '') END,
             lease_until = NULL, settled_at = coalesce(d.settled_at, now())
      FROM prior p
      WHERE d.id = p.id AND (p.step > coalesce(p.reached, 0) OR p.state NOT IN ('succeeded', 'dead'))
      RETURNING d.id, d.state, d.progress, d.code, d.fallback_id, p.state AS before, p.provider_code
    ), closed AS (
      UPDATE attempts a
         SET ended_at = now(), outcome = CASE s.state WHEN 'dead' THEN 'rejected' ELSE 'succeeded' END,
             code = CASE s.state WHEN 'dead' THEN s.code ELSE 'confirmed' END, provider_code = s.provider_code
      FROM settled s WHERE a.delivery_id = s.id AND a.ended_at IS NULL
    ), written AS (
      INSERT INTO audit (actor, action, delivery_id, reason)
      SELECT 'provider', CASE state WHEN 'dead' THEN 'failed' ELSE 'confirmed' END, id, progress
      FROM settled WHERE state <> before
    )
    SELECT id, state, progress, before,
           CASE WHEN state = 'succeeded' THEN fallback_id END AS unneeded FROM settled
""")  # noqa: S608 - words of our own

# A status tells how the provider writes the person a command was for; a message, that two names are one person.
LEARN = text("""
    INSERT INTO aliases AS a (alias, person)
    SELECT DISTINCT ON (alias) alias, person FROM (
      SELECT e.id, unnest(ARRAY[e.person, e.alias]) AS alias, d.person
      FROM inbound_events e JOIN deliveries d ON d.id = e.delivery_id AND d.account = e.account
      WHERE e.id = ANY(CAST(:ids AS bigint[])) AND e.kind = 'status'
      UNION ALL
      SELECT e.id, e.alias, e.person FROM inbound_events e
      WHERE e.id = ANY(CAST(:ids AS bigint[])) AND e.kind <> 'status'
    ) AS heard
    WHERE alias IS NOT NULL AND person IS NOT NULL AND alias <> person
    ORDER BY alias, id DESC
    ON CONFLICT (alias) DO UPDATE SET person = excluded.person WHERE a.person <> excluded.person
""")

OPEN_WINDOWS = text("""
    INSERT INTO windows AS w (account, person, until)
    SELECT account, person, max(window_until) FROM inbound_events
    WHERE id = ANY(CAST(:ids AS bigint[])) AND window_until IS NOT NULL AND person IS NOT NULL
    GROUP BY account, person
    ON CONFLICT (account, person) DO UPDATE SET until = excluded.until WHERE w.until < excluded.until
""")

# The newest wish counts, whatever the order in which they come.
OBEY = text("""
    WITH wishes AS (
      SELECT DISTINCT ON (person) person, account, consent = 'stop' AS stopped, coalesce(occurred_at, at) AS at
      FROM inbound_events
      WHERE id = ANY(CAST(:ids AS bigint[])) AND consent IS NOT NULL AND person IS NOT NULL
      ORDER BY person, coalesce(occurred_at, at) DESC, id DESC
    ), kept AS (
      INSERT INTO opt_outs AS o (person, stopped, at) SELECT person, stopped, at FROM wishes
      ON CONFLICT (person) DO UPDATE SET stopped = excluded.stopped, at = excluded.at WHERE o.at <= excluded.at
      RETURNING o.person, o.stopped
    )
    INSERT INTO audit (actor, action, account)
    SELECT 'person', CASE WHEN kept.stopped THEN 'opted_out' ELSE 'opted_in' END, wishes.account
    FROM kept JOIN wishes ON wishes.person = kept.person
""")

CANCEL_ANSWERED = text(f"""
    WITH said AS (
      SELECT e.account, e.person, max(coalesce(e.occurred_at, e.at)) AS at FROM inbound_events e
      WHERE e.id = ANY(CAST(:ids AS bigint[])) AND e.kind = 'message' AND e.person IS NOT NULL
      GROUP BY e.account, e.person
    ), ended AS (
      UPDATE deliveries d SET state = 'canceled', code = 'canceled', reason = 'the person wrote', settled_at = now()
      FROM said CROSS JOIN LATERAL {names_of("said.person")} AS name (person)
      WHERE d.person = name.person AND d.account = said.account AND d.cancel_on_reply = 1 AND d.created_at < said.at
        AND {CANCELABLE}
      RETURNING d.id, d.reason
    )
    INSERT INTO audit (actor, action, delivery_id, reason) SELECT 'person', 'canceled', id, reason FROM ended
""")  # noqa: S608 - pieces of our own

NOTE_TEMPLATES = text("""
    INSERT INTO templates AS t (account, name, language, status, category, quality, at)
    SELECT account, facts ->> 'name', facts ->> 'language',
           (array_agg(facts ->> 'status' ORDER BY news DESC) FILTER (WHERE facts ->> 'status' IS NOT NULL))[1],
           (array_agg(facts ->> 'category' ORDER BY news DESC) FILTER (WHERE facts ->> 'category' IS NOT NULL))[1],
           (array_agg(facts ->> 'quality' ORDER BY news DESC) FILTER (WHERE facts ->> 'quality' IS NOT NULL))[1],
           max(news)
    FROM (SELECT account, facts, coalesce(occurred_at, at) AS news FROM inbound_events
          WHERE id = ANY(CAST(:ids AS bigint[])) AND kind = 'template') AS told
    GROUP BY 1, 2, 3
    ON CONFLICT (account, name, language) DO UPDATE
       SET status = CASE WHEN excluded.at >= t.at THEN coalesce(excluded.status, t.status)
                         ELSE coalesce(t.status, excluded.status) END,
           category = CASE WHEN excluded.at >= t.at THEN coalesce(excluded.category, t.category)
                           ELSE coalesce(t.category, excluded.category) END,
           quality = CASE WHEN excluded.at >= t.at THEN coalesce(excluded.quality, t.quality)
                          ELSE coalesce(t.quality, excluded.quality) END,
           at = greatest(t.at, excluded.at)
""")

NOTE_ACCOUNTS = text("""
    INSERT INTO accounts AS a (name, told, told_at)
    SELECT DISTINCT ON (account) account, facts ->> 'note', coalesce(occurred_at, at) FROM inbound_events
    WHERE id = ANY(CAST(:ids AS bigint[])) AND kind = 'account'
    ORDER BY account, coalesce(occurred_at, at) DESC, id DESC
    ON CONFLICT (name) DO UPDATE SET told = excluded.told, told_at = excluded.told_at
     WHERE a.told_at IS NULL OR a.told_at <= excluded.told_at
""")

SAID = text("""
    SELECT e.id, e.account, e.key, e.kind, e.occurred_at, e.at, e.person, e.body, people.data_key
    FROM inbound_events e LEFT JOIN people ON people.person = e.person
    WHERE e.id = ANY(CAST(:ids AS bigint[])) AND e.kind IN ('message', 'notice', 'consent') AND e.body IS NOT NULL
    ORDER BY coalesce(e.occurred_at, e.at), e.at
""")
