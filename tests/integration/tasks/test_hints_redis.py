"""Hints on a real Valkey: where they are put, and what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from redis import Redis

from config.settings import load_settings
from delivery.ids import new_id
from delivery.ports import Hint
from sandbox.valkey import ValkeyServer
from tasks.app import Entrega


@pytest.fixture
def redis(redis_url):
    client = Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def hints(redis, redis_url):
    app = Entrega("hints")
    app.settings = load_settings({"entrega_env": "sandbox", "redis_url": redis_url})
    yield app.hints
    app.close()


def test_a_hint_for_later_waits_where_it_holds_up_nobody_and_counts_as_waiting(hints, redis):
    now, later = new_id(), new_id()

    sent = hints.publish([Hint(now, "create_lead", "high"), Hint(later, "create_lead", "high", timedelta(seconds=3))])

    messages = {name: json.loads(redis.lindex(name, 0))["headers"] for name in ("crm", "retry")}
    assert sent == hints.backlog() == 2
    assert {name: each["id"] for name, each in messages.items()} == {"crm": str(now), "retry": str(later)}
    assert [each["eta"] is None for each in messages.values()] == [True, False]


def test_a_hint_is_the_message_that_celery_itself_would_send(hints, redis):
    hint = Hint(new_id(), "create_lead", "low")
    named = str(hint.id)

    hints.publish([hint])
    hints._app.send_task(hint.kind, args=[named], task_id=named, queue="crm", priority=6, ignore_result=True)

    theirs, ours = (json.loads(each) for each in redis.lrange("crm\x06\x166", 0, -1))
    assert ours.pop("properties") == theirs.pop("properties") | {"delivery_tag": ANY}
    assert ours == theirs


@pytest.mark.parametrize(("many", "few"), [(160, 8), (40, 5), (5, 2)])
def test_of_many_hints_at_once_a_few_lead_the_lane_that_finds_the_rest(hints, redis, many, few):
    sent = hints.publish([Hint(new_id(), "create_lead", account="crm:default") for _ in range(many)])

    headers = [json.loads(each)["headers"] for each in redis.lrange("crm\x06\x166", 0, -1)]
    assert sent == hints.backlog() == few
    assert [(each["entrega_lane"], each["entrega_leads"]) for each in headers] == [("crm:default", True)] * few


def test_of_a_few_hints_each_goes_out_and_none_leads(hints, redis):
    hints.publish([Hint(new_id(), "create_lead", account="crm:default") for _ in range(4)])

    headers = [json.loads(each)["headers"] for each in redis.lrange("crm\x06\x163", 0, -1)]
    assert ["entrega_leads" in each for each in headers] == [False] * 4


@pytest.mark.parametrize(
    ("hint", "queue", "lane"),
    [
        ({"account": "crm:default"}, "crm\x06\x163", "crm:default"),
        ({"account": "crm:default", "alone": True}, "crm\x06\x163", None),
        ({"account": "crm:default", "wait": timedelta(seconds=3)}, "retry\x06\x163", None),
        ({}, "crm\x06\x163", None),
    ],
)
def test_a_hint_by_itself_names_its_lane_and_leads_nobody(hints, redis, hint, queue, lane):
    hints.publish([Hint(new_id(), "create_lead", **hint)])

    (message,) = redis.lrange(queue, 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers.get("entrega_lane"), "entrega_leads" in headers) == (lane, False)


def test_of_many_hints_each_account_keeps_some_because_a_lane_finds_those_of_its_own_account_only(hints, redis):
    many = [Hint(new_id(), "create_lead", account=f"crm:{n % 40}") for n in range(400)]

    hints.publish(many)

    messages = [each for queue in redis.scan_iter("crm*", _type="list") for each in redis.lrange(queue, 0, -1)]
    sent = {json.loads(each)["headers"]["id"] for each in messages}
    assert {each.account for each in many if str(each.id) in sent} == {f"crm:{n}" for n in range(40)}
    assert len(sent) == 80


@pytest.mark.parametrize(
    "needed", [{"alone": True}, {"wait": timedelta(seconds=9)}, {"priority": "high"}, {"account": ""}]
)
def test_hints_that_no_lane_stands_for_all_go_out(hints, needed):
    sent = hints.publish([Hint(new_id(), "create_lead", **({"account": "crm:default"} | needed)) for _ in range(40)])

    assert sent == hints.backlog() == 40


@pytest.fixture
def frozen(tmp_path):
    """A Valkey of our own that stands still until it is told to go on."""
    valkey = ValkeyServer(tmp_path)
    url = valkey.start()
    os.kill(valkey.pid, signal.SIGSTOP)
    yield SimpleNamespace(url=url, go_on=lambda: os.kill(valkey.pid, signal.SIGCONT))
    os.kill(valkey.pid, signal.SIGCONT)
    valkey.stop()


def test_a_submit_waits_for_no_broker(frozen, database, ledger, sql):
    app = Entrega("submits")
    settings = load_settings({"entrega_env": "sandbox", "redis_url": frozen.url})
    app.__dict__ |= {"settings": settings, "database": database, "ledger": ledger}

    began = time.monotonic()
    for n in range(20):  # a broker that is waited for costs each of them a second
        body = {"nome": f"Ana Teste {n}", "email": f"ana.teste{n}@exemplo.com.br", "interesse": "produto_a"}
        app.intake.submit("create_lead", body, producer="tests")
    took = time.monotonic() - began
    frozen.go_on()
    while not app.hints.backlog():  # what was lost meanwhile is the sweep's; the thread carries on
        app.hints.send([Hint(new_id(), "create_lead")])

    assert sql("SELECT count(*) FROM deliveries") == [(20,)]
    assert took < 10
    app.close()


_PRODUCER = """
import os, sys
from config.settings import load_settings
from delivery.ids import new_id
from delivery.ports import Hint
from tasks.app import Entrega

app = Entrega("producer")
app.settings = load_settings({"entrega_env": "sandbox", "redis_url": sys.argv[1]})
app.hints.send([Hint(new_id(), "create_lead")])
if sys.argv[2] == "forks":
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    else:
        app.hints.send([Hint(new_id(), "create_lead")])
"""


def producer(url, what):
    done = subprocess.run([sys.executable, "-c", _PRODUCER, url, what], capture_output=True, check=False, timeout=60)
    return done.returncode, done.stderr.decode() + done.stdout.decode()


@pytest.mark.parametrize(("what", "hinted"), [("ends", 1), ("forks", 2)])
def test_a_program_that_ends_after_its_submit_takes_no_hint_with_it(hints, redis_url, what, hinted):
    code, said = producer(redis_url, what)

    assert (code, said) == (0, "")
    assert hints.backlog() == hinted


def test_a_program_ends_although_the_broker_stands_still_and_says_what_becomes_of_its_hints(frozen):
    code, said = producer(frozen.url, "ends")

    assert code == 0
    assert "the sweep sends them again" in said
