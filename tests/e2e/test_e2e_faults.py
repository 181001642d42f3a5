"""The worst days: servers and workers killed, Redis wiped, strangers at the broker, and no leak of personal data.

Two books are compared each time: our ledger, and what the stand-ins really did.
"""

import base64
import json
import shutil
from collections import Counter
from urllib.request import Request, urlopen

import psutil
import pytest
from kombu import Producer

from delivery.errors import LedgerUnavailable
from ingress.system import addresses

FLOWER = True
PROVIDERS = ("crm", "graph", "smtp")


def five_hundred(running):
    """Hand over 300 leads, 100 messages and 100 e-mails while the worker stands still, then let it go."""
    running.control["crm"].configure({"latency_s": 0.1})
    running.control["graph"].configure({"latency_s": 0.1})
    start = running.accepted()
    worker = psutil.Process(running.system.parts["worker1"].pid)
    worker.suspend()
    leads = [running.lead(f"muitos{start + n}") for n in range(300)]
    messages = [running.message(start + n) for n in range(100)]
    letters = [running.letter(start + n) for n in range(100)]
    worker.resume()
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
    leads, messages, letters = five_hundred(running)
    everything = leads + messages + letters

    running.redis.flushall()
    running.some(everything, "succeeded", 50)
    with running.stood_still():  # in the midst of its work; else a slow test comes when all is done
        running.redis.flushall()
        open_then = 500 - running.states(everything)["succeeded"]
    running.until(everything, "succeeded")

    assert open_then > 20, "Redis was wiped too late to show anything"
    assert effects_of(running, everything) == Counter({1: 500})


def test_killing_the_worker_during_500_deliveries_loses_and_repeats_nothing(running):
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
    running.until(everything, "succeeded", "uncertain", "dead")

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

    ids = [running.lead(f"semredis{n}") for n in range(3)]
    shutil.rmtree(running.system.data / "valkey")
    running.revive("valkey")
    running.until(ids, "succeeded")

    assert effects_of(running, ids) == Counter({1: 3})


def test_while_postgres_is_away_nothing_is_promised_and_afterwards_everything_goes_on(running):
    worker = running.system.parts["worker1"].pid
    accepted = running.accepted()
    running.control["crm"].plan({"hang_s": 4.0, "effect": True, "match": "create_lead"})
    caught = running.lead("pegopelafalha")
    running.some([caught], "attempting", 1)

    running.kill("postgres")
    stranger = running.send_foreign("create_lead", kwargs=foreign_lead("semledger"))
    with pytest.raises(LedgerUnavailable):
        running.lead("naoprometido")
    running.revive("postgres")

    running.until(caught, "succeeded")
    foreign = running.wait(lambda: running.opened_by(stranger), "the stranger's command in the ledger")
    running.until(foreign, "succeeded")
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
    before = running.metric("entrega_messages_rejected_total")

    running.send_foreign("no_such_task", kwargs={"email": "ninguem.teste@exemplo.com.br"})
    running.send_foreign("create_lead", args=["not-an-id"])
    running.send_foreign("create_lead", args=[{"nome": "Sem Email Teste"}])
    running.send_foreign("create_lead", kwargs=foreign_lead("picles"), serializer="pickle")
    publish(running, {"not": "a task"}, headers={})
    publish(running, "just text", headers={"task": "create_lead", "id": "1", "lang": "py"})
    publish(running, b"\xff\xfe", headers={"task": "create_lead", "id": "2"}, content_type="application/json")
    publish(running, b"\x00", headers={"task": "create_lead", "id": "3"}, content_type="image/png")

    running.wait(lambda: running.metric("entrega_messages_rejected_total") >= before + 8, "eight refusals are counted")
    running.works()
    assert running.system.parts["worker1"].pid == worker


def test_arguments_that_do_not_fit_are_refused_and_counted(running):
    refused = refusals(running, "malformed")

    running.send_foreign("create_lead", args=["one", "two", "three"])

    running.wait(lambda: refusals(running, "malformed") == refused + 1, "the refusal is counted")
    running.works()


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"{}", b"[1, 2]", b"\xff\x00", b'{"body": "x"}', b'{"properties": {"delivery_tag": "1"}}']
)
def test_raw_garbage_on_the_queue_does_not_end_the_worker(running, garbage):
    worker = running.system.parts["worker1"].pid

    running.redis.lpush("celery", garbage)

    running.wait(lambda: not running.redis.llen("celery"), "the garbage was taken from the queue")
    running.until_alone(running.lead(f"lixo{running.accepted()}"), "succeeded")
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


CANARY = {
    "name": "Zefirina Canarinho",
    "surname": "canarinho",
    "address": "zefirina.canarinho@exemplo.com.br",
    "phone": "5511987650042",
    "text": "piu-piu-amarelo",
    "foreign name": "Quitéria Forasteira",
    "foreign surname": "forasteira",
    "foreign address": "quiteria.forasteira@exemplo.com.br",
    "foreign phone": "5511987650043",
    "foreign text": "segredo-de-fora",
}


def canaries(running):
    """Hand over one command of each kind at our own door, and one of each kind as a foreign client."""
    own = [
        running.submit(
            "create_lead", nome=CANARY["name"], email=CANARY["address"], telefone=f"+{CANARY['phone']}",
            interesse="produto_a", observacoes=CANARY["text"], tags=[CANARY["text"]],
            options={"key": f"lead-{CANARY['address']}"},
        ),
        running.submit("send_whatsapp", to=f"+{CANARY['phone']}", text=CANARY["text"]),
        running.submit("send_email", to=CANARY["address"], subject=CANARY["name"], text=CANARY["text"]),
    ]  # fmt: skip
    foreign = [
        running.send_foreign(
            "create_lead",
            kwargs={
                "nome": CANARY["foreign name"], "email": CANARY["foreign address"], "interesse": "produto_a",
                "telefone": f"+{CANARY['foreign phone']}", "observacoes": CANARY["foreign text"],
            },
        ),
        running.send_foreign(
            "send_whatsapp", kwargs={"to": f"+{CANARY['foreign phone']}", "text": CANARY["foreign text"]}
        ),
        running.send_foreign(
            "send_email",
            args=[{
                "to": CANARY["foreign address"], "subject": CANARY["foreign name"], "text": CANARY["foreign text"],
            }],
        ),
        # Neither of these can be used, and both say who somebody is.
        running.send_foreign("create_lead", kwargs={"nome": CANARY["foreign name"], "email": CANARY["foreign name"]}),
        running.send_foreign("no_such_task", kwargs={"email": CANARY["foreign address"]}),
        running.send_foreign("create_lead", args=[CANARY["foreign address"]]),
        running.send_foreign("create_lead", args=[CANARY["foreign address"], CANARY["foreign text"], {}]),
        running.send_foreign("create_lead", kwargs={"nome": CANARY["foreign name"]}, serializer="pickle"),
    ]  # fmt: skip
    return own, foreign


def leaks(where, text):
    """Return which invented values stand in a text: as they are, escaped as JSON, in base64 or as hexadecimal bytes."""
    seen = text.casefold()
    return {
        f"{name} in {where}"
        for name, value in CANARY.items()
        if any(form.casefold() in seen for form in (value, json.dumps(value)[1:-1], value.encode().hex()))
        or any(form in text for form in base64_forms(value))
    }


def base64_forms(value):
    # What base64 makes of a text depends on where in its groups of three bytes it begins.
    shifted = (base64.b64encode(bytes(n) + value.encode()).decode() for n in range(3))
    return [form[4:-4] for form in shifted]


def everything_in_redis(client):
    readers = {
        b"string": client.get, b"list": lambda key: client.lrange(key, 0, -1), b"hash": client.hgetall,
        b"set": client.smembers, b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }  # fmt: skip
    found = [(key, readers[client.type(key)](key)) for key in client.scan_iter()]
    return "\n".join(f"{key!r} {value!r}" for key, value in found)


def everything_in_postgres(running):
    tables = running.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    rows = [row for (table,) in tables for row in running.sql(f'SELECT t::text FROM "{table}" t')]  # noqa: S608 - ours
    return "\n".join(row[0] for row in rows)


def flower(running, path):
    found = addresses(running.system)
    login = base64.b64encode(found["flower_login"].encode()).decode()
    with urlopen(Request(f"{found['flower']}{path}", headers={"Authorization": f"Basic {login}"}), timeout=60) as page:
        return page.read().decode()


def tasks_in_flower(running):
    return json.loads(flower(running, "/api/tasks?limit=10000")).keys()


def worker_in_flower(running):
    workers = json.loads(flower(running, "/api/workers?refresh=1"))
    return next((name for name, known in workers.items() if "stats" in known), None)


def everything_in_flower(running, task_ids):
    tasks = running.wait(lambda: tasks_in_flower(running) & set(task_ids), "Flower has seen the tasks")
    worker = running.wait(lambda: worker_in_flower(running), "Flower knows the worker")
    pages = ["/tasks", "/workers", "/broker", f"/worker/{worker}", "/api/workers?refresh=1", "/api/tasks?limit=10000"]
    pages += [f"{root}/{id_}" for id_ in tasks for root in ("/task", "/api/task/info")]
    return "\n".join(flower(running, each) for each in pages)


def everything_inspect_tells(running):
    inspect = running.app.control.inspect(timeout=5, limit=1)
    told = [inspect.active(), inspect.reserved(), inspect.scheduled()]
    return {each["id"] for tasks in (told[0] or {}).values() for each in tasks}, json.dumps(
        told, default=str, ensure_ascii=False
    )


def everything_over_rest(running, ids):
    key = running.app.settings.bootstrap_key().get_secret_value()
    pages = ["/v1/deliveries", *(f"/v1/deliveries/{each}" for each in ids)]
    told = []
    for page in pages:
        request = Request(f"{running.system.url}{page}", headers={"Authorization": f"Bearer {key}"})
        with urlopen(request, timeout=60) as answer:
            told.append(answer.read().decode())
    return "\n".join(told)


def test_statement_27_and_28_personal_data_shows_nowhere_but_in_the_sealed_ledger_and_at_the_providers(running):
    refused = running.metric("entrega_messages_rejected_total")
    running.control["crm"].plan({"status": 503, "times": 1, "match": "create_lead"})
    running.control["crm"].plan({"hang_s": 1.5, "effect": True, "times": 1, "match": "create_lead"})
    own, foreign = canaries(running)
    opened = [running.wait(lambda id_=id_: running.opened_by(id_), "a foreign command") for id_ in foreign[:3]]
    running.until(own + opened, "succeeded")
    running.wait(lambda: running.metric("entrega_messages_rejected_total") >= refused + 4, "the others are refused")
    running.wait(lambda: foreign[0] in tasks_in_flower(running), "Flower knows the foreign task")

    data = running.system.data
    logs = {each.name: each.read_text(errors="replace") for each in [*data.glob("*.log"), *data.glob("logs/*.log")]}
    found = set().union(*(leaks(name, content) for name, content in logs.items()))
    found |= leaks("Redis", everything_in_redis(running.redis))
    found |= leaks("Postgres", everything_in_postgres(running))
    found |= leaks("Flower", everything_in_flower(running, [*foreign, *map(str, own)]))
    found |= leaks("REST", everything_over_rest(running, own + opened)) | leaks("metrics", running.metrics_page())

    assert leaks("a message", base64.b64encode(json.dumps(["x", CANARY["address"]]).encode()).decode())
    assert {"worker1.log", "beat.log", "web.log", "flower.log", "postgres.log"} <= logs.keys()
    assert not found
    assert effects_of(running, own + opened) == Counter({1: 6})


def test_a_foreign_command_in_a_workers_hands_shows_nothing_of_the_person_to_inspect_and_flower(running):
    person = {"nome": CANARY["foreign name"], "email": CANARY["foreign address"], "interesse": "produto_b"}

    with running.holding_up("idempotency"):  # whoever accepts a command waits here
        task_id = running.send_foreign("create_lead", kwargs=person | {"observacoes": "outra coisa"})
        _, told = running.wait(
            lambda: task_id in (found := everything_inspect_tells(running))[0] and found, "it is being worked on"
        )
        pages = everything_in_flower(running, [task_id])

    assert task_id in told
    assert not leaks("inspect", told) | leaks("Flower", pages)
    running.until(running.wait(lambda: running.opened_by(task_id), "the command in the ledger"), "succeeded")


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
