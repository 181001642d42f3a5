"""Strangers at the broker: whatever they send, the same worker goes on, and an operator sees what was refused."""

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delivery.errors import LedgerUnavailable
from ingress.system import addresses
from tasks.messages import MOST_BYTES
from tests.e2e.conftest import lead_of
from tests.faults.shapes import ABSENT, GOOD_BODY, SHAPES, bomb, item

FLOWER = True


@pytest.fixture
def worker(running):
    """The worker's process; it must be the same one at the end, with nothing of the test left in Redis."""
    pid = running.system.parts["worker1"].pid
    yield psutil.Process(pid)
    running.wait(lambda: not running.redis.exists("celery", "unacked", "unacked_index"), "nothing is left in Redis")
    assert running.system.parts["worker1"].pid == pid
    assert running.system.parts["worker1"].running
    running.works()


def refused(running):
    return running.log("worker1").count('"event": "message_refused"')


def send(running, *items):
    """Push messages as they are and wait until each is refused."""
    before = refused(running)
    running.redis.lpush("celery", *items)
    running.wait(lambda: refused(running) >= before + len(items), f"{len(items)} messages are refused{running.tail()}")


def test_statement_24_unknown_task_extra_args_wrong_types_and_10_mb_are_rejected_and_the_worker_lives(running, worker):
    accepted, counted = running.accepted(), running.metric("entrega_messages_rejected_total")

    for name in SHAPES:  # one after the other: each of them alone ended a worker
        send(running, SHAPES[name])
    send(running, item([[], {"nome": "x" * 10_000_000}, None]))

    assert running.accepted() == accepted
    told = "each is counted"
    running.wait(lambda: running.metric("entrega_messages_rejected_total") > counted + len(SHAPES), told)


def test_each_refused_message_is_kept_for_the_operator_without_its_content(running, worker):
    email = "zefirina.canarinho@exemplo.com.br"
    wrong = {"nome": "Zefirina Canarinho", "email": email, "interesse": "produto_a", "timelimit": 5, email: 1}
    task_id = str(uuid.uuid4())

    send(running, item([[], wrong, None], headers={"id": task_id}))
    listed = running.wait(
        lambda: [each for each in running.entrega("broker", "rejected") if each["message_id"] == task_id], "a copy"
    )

    [kept] = listed
    assert kept["reason"] == "invalid_command"
    assert kept["task"] == "create_lead"
    assert {each["field"] for each in kept["issues"]} == {"timelimit", "***"}
    assert json.loads(kept["copy"])["kwargs"]["nome"] == "18 characters"
    assert running.entrega("broker", "rejected", kept["id"]) == kept
    assert kept not in running.entrega("broker", "rejected", "--reason", "compressed")
    assert running.entrega("broker", "rejected", str(uuid.uuid4())) == 4
    assert "canarinho" not in (json.dumps(listed) + running.log("worker1")).casefold()


def test_a_foreign_message_with_a_wrong_field_leaves_one_line_without_a_traceback(running, worker):
    task_id = str(uuid.uuid4())

    send(running, item([[], {"nome": "Ana Teste", "email": "ana"}, None], headers={"id": task_id}))
    log = running.wait(lambda: task_id in (log := running.log("worker1")) and log, "the line")

    [line] = [each for each in log.splitlines() if task_id in each and "message_refused" in each]
    assert "email" in line
    assert "interesse" in line
    assert not [each for each in log.splitlines() if task_id in each and "Traceback" in each]


def test_while_postgres_is_away_messages_are_refused_and_counted_and_the_loss_of_copies_is_told(running, worker):
    running.kill("postgres")
    before = refused(running)

    running.redis.lpush("celery", *[SHAPES["body []"]] * 5)
    running.wait(lambda: refused(running) == before + 5, "the worker refuses them all the same")
    running.wait(lambda: "copies_lost" in running.log("worker1"), "the log tells that no copies are kept")

    assert not running.redis.llen("celery")
    running.revive("postgres")
    running.wait(lambda: ledger_answers(running), "connections of before are gone")


def ledger_answers(running):
    try:
        return running.sql("SELECT true")
    except LedgerUnavailable:
        return False


def test_a_foreign_message_with_a_far_eta_becomes_a_row_with_that_time_and_does_not_wait_in_memory(running, worker):
    at = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)

    task_id = running.send_foreign("create_lead", kwargs=lead_of("daquiaduashoras"), eta=at)
    id_ = running.wait(lambda: running.opened_by(task_id), "the command in the ledger")

    assert running.find(id_).next_at == at


def test_a_flood_of_foreign_messages_does_not_hold_up_our_own(running, worker):
    with running.stood_still():
        running.redis.lpush("celery", *[SHAPES["body []"]] * 3000)
        id_ = running.lead("aofundodafila")

    running.until_alone(id_, "succeeded")

    assert running.redis.llen("celery") > 0


def test_a_compressed_message_is_refused_before_it_is_unpacked(running, worker):
    before = worker.memory_info().rss

    send(running, *[bomb()] * 3)

    assert worker.memory_info().rss - before < 30_000_000


def test_a_message_that_is_too_large_is_refused(running, worker):
    send(running, item(b"[" + b" " * MOST_BYTES + b"]"))

    running.wait(lambda: running.entrega("broker", "rejected", "--reason", "too_large"), "its copy")


def test_a_remote_shutdown_ends_no_worker_and_questions_are_answered(running, worker):
    full = running.app.control  # with all the rights of a worker

    full.broadcast("shutdown")
    for command, arguments in REMOTE:
        full.broadcast(command, arguments=arguments)
    name = next(iter(full.inspect(timeout=30, limit=1).ping()))

    assert full.inspect([name], timeout=30, limit=1).active_queues()[name]
    assert worker.is_running()


REMOTE = [
    ("revoke", {"task_id": "x", "terminate": True}),
    ("terminate", {"task_id": "x", "signal": "KILL"}),
    ("pool_shrink", {"n": 16}),
    ("pool_restart", {}),
    ("rate_limit", {"task_name": "create_lead", "rate_limit": "1/h"}),
    ("cancel_consumer", {"queue": "crm"}),
    ("hello", {"from_node": "x", "revoked": {"x": 1}}),
    ("election", {"id": "x", "topic": "x", "action": "x"}),
    ("disable_events", {}),
]


@pytest.mark.parametrize("path", ["/", "/tasks", "/broker", "/workers", "/api/tasks", "/api/workers", "/worker/x"])
def test_statement_32_flower_shows_nothing_without_its_login(running, path):
    assert [flower(running, path, login) for login in ("", "operator:", "operator:wrong", "operator")] == [401] * 4


@pytest.mark.parametrize(
    "path",
    [
        *(f"/api/worker/{each}/x" for each in ("shutdown", "pool/restart", "pool/grow", "queue/add-consumer")),
        *(f"/api/task/{each}" for each in ("apply/sweep", "async-apply/sweep", "send-task/sweep", "revoke/x")),
    ],
)
def test_statement_32_flower_is_read_only_for_its_own_user_too(running, path):
    login = addresses(running.system)["flower_login"]

    assert flower(running, path, login, data=b"{}") == 403


def test_statement_33_flowers_metrics_are_not_reachable_from_outside(running):
    process = psutil.Process(running.system.parts["flower"].pid)
    listening = {each.laddr.ip for each in process.net_connections() if each.status == psutil.CONN_LISTEN}

    assert listening == {"127.0.0.1"}
    assert flower(running, "/metrics") == 200


def flower(running, path, login="", data=None):
    request = Request(addresses(running.system)["flower"] + path, data=data)
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urlopen(request, timeout=60) as page:
            return page.status
    except HTTPError as err:
        return err.code


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("create_lead"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
HEADERS = [
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id"),
    *("parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers"),
    *("stamps", "headers", "compression", "redelivered", "entrega_lane", "entrega_leads", "utc", "update"),
]
PROPERTIES = ["correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority", "body_encoding", "expiration"]
FIELDS = ["nome", "email", "telefone", "interesse", "observacoes", "tags", "options", "delivery_id", "self", "args"]


def changes(names):
    return json_values | st.dictionaries(st.sampled_from(names), json_values | st.just(ABSENT), max_size=3)


commands = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4).map(GOOD_BODY[1].__or__)
bodies = (
    st.just(GOOD_BODY)
    | json_values
    | st.binary(max_size=40)
    | st.tuples(st.lists(json_values, max_size=3), commands | json_values, json_values)
)
messages = st.builds(
    item,
    bodies,
    headers=changes(HEADERS) | st.just({}),
    properties=changes([*PROPERTIES, "delivery_tag"]) | st.just({}),
) | st.binary(max_size=60)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(messages, min_size=20, max_size=20))
def test_no_message_of_any_shape_ends_the_worker(running_for_all, batch):
    running, pid = running_for_all

    running.redis.lpush("celery", *batch)
    running.redis.lpush("crm", *batch)
    running.wait(lambda: not running.redis.exists("celery", "crm", "unacked"), f"all are taken{running.tail()}")

    id_ = running.lead(f"prova{uuid.uuid4().hex}")
    running.until_alone(id_, "succeeded")
    assert running.system.parts["worker1"].pid == pid
    assert running.system.parts["worker1"].running


@pytest.fixture
def running_for_all(running, worker):
    return running, worker.pid
