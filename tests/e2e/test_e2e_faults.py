"""The worst days: servers and workers killed, Redis wiped, strangers at the broker, and personal data that must not leak.

Two books are compared each time: our ledger, and what the stand-ins really did.
"""

import base64
import json
import shutil
import signal
from collections import Counter
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID

import pytest
from celery import Celery
from kombu import Producer

from delivery.errors import LedgerUnavailable
from ingress.system import addresses

FLOWER = True
PROVIDERS = ("crm", "graph", "smtp")


def five_hundred(running):
    leads = [running.lead(f"muitos{n}.{running.accepted()}") for n in range(300)]
    messages = [running.message(n) for n in range(100)]
    letters = [running.letter(n) for n in range(100)]
    return leads, messages, letters


def effects_of(running, ids):
    found = running.effects(*PROVIDERS)
    return Counter(found[str(id_)] for id_ in ids)


@pytest.fixture(autouse=True)
def _the_books_add_up(running):
    yield
    verdict = running.app.archive.verify()
    assert verdict.accepted == sum(verdict.states.values())
    assert not verdict.faults
    assert max(running.effects(*PROVIDERS).values(), default=0) <= 1


def test_wiping_redis_during_500_deliveries_loses_and_repeats_nothing(running):
    running.control["crm"].configure({"latency_s": 0.1})
    running.control["graph"].configure({"latency_s": 0.1})
    leads, messages, letters = five_hundred(running)
    everything = leads + messages + letters

    running.redis.flushall()
    running.some(everything, "succeeded", 50)
    running.redis.flushall()
    open_then = 500 - running.states(everything)["succeeded"]
    running.until(everything, "succeeded")

    assert open_then > 20, "Redis was wiped too late to show anything"
    assert effects_of(running, everything) == Counter({1: 500})


def test_killing_the_worker_during_500_deliveries_loses_and_repeats_nothing(running):
    running.control["crm"].configure({"latency_s": 0.1})
    running.control["graph"].configure({"latency_s": 0.1})
    leads, messages, letters = five_hundred(running)
    everything = leads + messages + letters
    caught = Counter()

    for at_least in (20, 100):
        running.some(everything, "succeeded", at_least)
        running.some(everything, "attempting", 1)
        running.kill("worker1")
        caught += running.states(everything)
        running.end_dead_leases()
        running.revive("worker1")
    running.until(everything, "succeeded", "uncertain")

    assert caught["attempting"] > 0, "the worker was killed with nothing in its hands"
    assert running.states(leads) == Counter(succeeded=300)
    assert effects_of(running, leads) == Counter({1: 300})
    sure = [id_ for id_ in messages + letters if running.find(id_).state == "succeeded"]
    assert effects_of(running, sure) == Counter({1: len(sure)})
    unsure = set(messages + letters) - set(sure)
    assert effects_of(running, unsure).keys() <= {0, 1}
    assert len(unsure) <= caught["attempting"]


def test_while_redis_is_away_commands_are_accepted_and_an_empty_redis_gets_them_delivered(running):
    running.kill("valkey")

    ids = [running.lead(f"semredis{n}") for n in range(5)]
    shutil.rmtree(running.system.data / "valkey")
    running.revive("valkey")
    running.until(ids, "succeeded")

    assert effects_of(running, ids) == Counter({1: 5})


def test_while_postgres_is_away_nothing_is_promised_and_afterwards_everything_goes_on(running):
    worker = running.system.parts["worker1"].pid
    accepted = running.accepted()
    running.control["crm"].plan({"hang_s": 1.0, "effect": True, "match": "create_lead"})
    caught = running.lead("pegopelafalha")
    running.some([caught], "attempting", 1)

    running.kill("postgres")
    stranger = running.send_foreign("create_lead", kwargs=foreign_lead("semledger"))
    with pytest.raises(LedgerUnavailable):
        running.lead("naoprometido")
    running.revive("postgres")

    running.until(caught, "succeeded")
    running.until(running.wait(lambda: running.opened_by(stranger), "the stranger's command in the ledger"), "succeeded")
    assert running.effects("crm")[str(caught)] == 1
    assert running.accepted() == accepted + 2
    assert running.system.parts["worker1"].pid == worker


def test_a_plain_celery_client_gets_a_delivery_and_a_redelivered_message_opens_nothing_new(running):
    task_id = running.send_foreign("create_lead", kwargs=foreign_lead("forasteiro"))
    id_ = running.wait(lambda: running.opened_by(task_id), "the foreign command in the ledger")
    running.until(id_, "succeeded")
    accepted, told = running.accepted(), running.log("worker1").count(task_id)

    # The window in which the same content counts as a repeat has passed; only the message's id tells now.
    running.sql("UPDATE idempotency SET kept_until = now() WHERE key LIKE 'same:%'")
    running.send_foreign("create_lead", kwargs=foreign_lead("forasteiro"), task_id=task_id)
    running.wait(lambda: running.log("worker1").count(task_id) > told, "the worker took the second message")

    assert running.accepted() == accepted
    assert running.effects("crm")[str(id_)] == 1


def test_a_foreign_body_that_is_invalid_is_refused_and_counted(running):
    accepted = running.accepted()
    refused = refusals(running, "invalid_command")

    running.send_foreign("create_lead", kwargs=foreign_lead("torto") | {"email": "torto(arroba)exemplo"})

    running.wait(lambda: refusals(running, "invalid_command") == refused + 1, "the refusal is counted")
    assert running.accepted() == accepted
    running.works()


def test_messages_that_are_no_commands_are_refused_and_counted_and_the_worker_goes_on(running):
    worker = running.system.parts["worker1"].pid
    before = {each: refusals(running, each) for each in ("unknown_task", "malformed", "unreadable", "not_a_task")}

    running.send_foreign("no_such_task", kwargs={"email": "ninguem.teste@exemplo.com.br"})
    running.send_foreign("create_lead", args=["not-an-id"])
    running.send_foreign("create_lead", args=["one", "two", "three"])
    running.send_foreign("create_lead", args=[{"nome": "Sem Email Teste"}])
    running.send_foreign("create_lead", kwargs=foreign_lead("picles"), serializer="pickle")
    publish(running, {"not": "a task"}, headers={})
    publish(running, "just text", headers={"task": "create_lead", "id": "1", "lang": "py"})
    publish(running, b"\xff\xfe", headers={"task": "create_lead", "id": "2"}, content_type="application/json")
    publish(running, b"\x00", headers={"task": "create_lead", "id": "3"}, content_type="image/png")

    running.wait(lambda: refusals(running, "unreadable") >= before["unreadable"] + 3, "unreadable bodies are counted")
    running.wait(lambda: refusals(running, "unknown_task") == before["unknown_task"] + 1, "the unknown task is counted")
    running.wait(lambda: refusals(running, "malformed") >= before["malformed"] + 2, "malformed arguments are counted")
    running.wait(lambda: refusals(running, "not_a_task") >= before["not_a_task"] + 1, "the non-task is counted")
    running.works()
    assert running.system.parts["worker1"].pid == worker


@pytest.mark.parametrize("garbage", [b"garbage", b"{}", b"[1, 2]", b"\xff\x00", b'{"body": "x"}'])
def test_raw_garbage_on_the_queue_does_not_end_the_worker(running, garbage):
    worker = running.system.parts["worker1"].pid

    running.redis.lpush("celery", garbage)

    running.wait(lambda: not running.redis.llen("celery"), "the garbage was taken from the queue")
    running.works()
    assert running.system.parts["worker1"].pid == worker


def test_two_beats_at_once_harm_nothing(running, start):
    own_schedule = f"--schedule={running.system.data / 'second-schedule'}"
    own_pid = f"--pidfile={running.system.data / 'second.pid'}"
    running.control["crm"].plan({"status": 503, "times": 2, "match": "create_lead"})

    with start("celery", "-A", "worker", "beat", own_schedule, own_pid, **running.system.variables) as second:
        second.says("beat: Starting")
        ids = [running.lead(f"doisbeats{n}") for n in range(20)]
        running.redis.flushall()
        running.until(ids, "succeeded")

    assert effects_of(running, ids) == Counter({1: 20})


def test_without_any_beat_deliveries_go_on_and_a_new_beat_takes_up_what_was_left(running):
    running.kill("beat")

    running.until_alone(running.lead("sembeat"), "succeeded")
    running.control["crm"].configure({"latency_s": 0.3})
    ids = [running.lead(f"sembeat{n}") for n in range(60)]
    running.redis.flushall()
    running.revive("beat")
    running.until(ids, "succeeded")

    assert effects_of(running, ids) == Counter({1: 60})


def foreign_lead(name):
    return {"nome": f"{name.title()} Teste", "email": f"{name}.teste@exemplo.com.br", "interesse": "produto_b"}


def refusals(running, reason):
    return running.metric("entrega_messages_rejected_total", reason=reason)


def publish(running, body, *, headers, content_type=None):
    with running.foreign.connection_for_write() as connection, connection.channel() as channel:
        Producer(channel).publish(
            body, routing_key="celery", headers=headers, content_type=content_type,
            content_encoding="binary" if isinstance(body, bytes) else None,
        )  # fmt: skip
